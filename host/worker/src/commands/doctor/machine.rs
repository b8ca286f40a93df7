//! The machine: GPU, memory, Vulkan, and what the kernel has for the sandbox.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use worker_backends::{Machine, gib, memory_keeper, server_network, vulkan};
use worker_config::Paths;

use super::Check;
use crate::client::Client;

/// How long the running worker may take to say how it holds programs. It answers from memory.
const LIMIT: Duration = Duration::from_secs(5);

/// `sandbox` is whether the configuration wants programs kept in one.
pub(super) async fn checks(paths: &Paths, sandbox: bool) -> Vec<Check> {
    let state = Machine::new(paths.programs.join("work"))
        .state(&CancellationToken::new())
        .await;
    let gpu = match (&state.gpu, &state.gpu_problem) {
        (Some(gpu), _) => {
            let free = gpu.free.map_or_else(
                || "free memory unknown".to_owned(),
                |free| format!("{:.1} GiB free", gib(free)),
            );
            let found = format!("{}, {:.1} GiB, {free}", gpu.name, gib(gpu.total));
            Check::ok("gpu", found)
        }
        (None, Some(problem)) => Check::warning(
            "gpu",
            format!("the NVIDIA driver's program fails: {problem}"),
            "run `nvidia-smi` by hand, as the worker's user: its error is the driver's",
        ),
        (None, None) => Check::warning(
            "gpu",
            "no GPU memory can be measured: neither nvidia-smi, nor an AMD card, nor an Apple one",
            "install the GPU's driver; without one, jobs are admitted unmeasured and programs compute on the processor, if at all",
        ),
    };
    let memory = match state.host_available {
        Some(bytes) => Check::ok(
            "memory",
            format!("{:.1} GiB available to programs", gib(bytes)),
        ),
        None => Check::warning(
            "memory",
            "main memory cannot be measured",
            "jobs are admitted unmeasured; nothing to do on this system",
        ),
    };
    let mut checks = vec![gpu, memory];
    if cfg!(target_os = "linux") {
        checks.push(vulkan_check());
        checks.push(sandbox_check());
        let status = status(paths).await;
        checks.push(limit_check(status.as_ref()));
        checks.push(network_check(status.as_ref(), sandbox));
    }
    checks
}

fn vulkan_check() -> Check {
    let found = vulkan(Path::new("/"));
    match (&found.loader, found.drivers.is_empty()) {
        (Some(loader), false) => {
            let drivers = found.drivers.join(", ");
            Check::ok(
                "vulkan",
                format!("{} with drivers {drivers}", loader.display()),
            )
        }
        (Some(loader), true) => Check::warning(
            "vulkan",
            format!("{} is there, but no driver of a GPU", loader.display()),
            "install the GPU's Vulkan driver (Debian: mesa-vulkan-drivers, or NVIDIA's)",
        ),
        (None, _) => Check::warning(
            "vulkan",
            "no Vulkan loader: programs built for Vulkan do not start",
            "install it (Debian: libvulkan1), unless your programs use another way to the GPU",
        ),
    }
}

/// What programs are kept in here: the same answer that decides which plugins may run them.
fn sandbox_check() -> Check {
    let support = worker_backends::support();
    let found = support.to_string();
    if support.is_complete() {
        return Check::ok("sandbox", found);
    }
    Check::warning(
        "sandbox",
        found,
        "plugins that did not come with this worker run no programs here; see docs/sandbox.md",
    )
}

/// Who holds programs to their memory: as the running worker says, since a service is in another control group than this
/// command; else what a worker started from here would do.
fn limit_check(status: Option<&Value>) -> Check {
    let check = "memory.limit";
    let next = "start the worker as a service of its own with Delegate=yes, so that the kernel does; docs/sandbox.md shows how";
    let told = status.and_then(|status| told(status, "memoryLimit", "by"));
    let (is_kernel, found) = match told {
        Some((by, detail)) => (by == "kernel", format!("the running worker: {detail}")),
        None => {
            let keeper = memory_keeper();
            (keeper.is_kernel(), format!("started from here: {keeper}"))
        }
    };
    if is_kernel {
        Check::ok(check, found)
    } else {
        Check::warning(check, found, next)
    }
}

/// Whether warm servers have a network each: as the running worker says, since its rights may be other ones than this
/// command's; else what a worker started from here would do.
fn network_check(status: Option<&Value>, sandbox: bool) -> Check {
    let check = "server.network";
    let next = "nothing, unless others have accounts or programs on this machine; else see docs/servers.md for what the worker needs, and what that costs";
    let told = status.and_then(|status| told(status, "serverNetwork", "network"));
    let (is_own, found) = match told {
        Some((network, detail)) => (network == "own", format!("the running worker: {detail}")),
        None => {
            let network = server_network(sandbox);
            (network.is_own(), format!("started from here: {network}"))
        }
    };
    if is_own {
        Check::ok(check, found)
    } else {
        Check::warning(check, found, next)
    }
}

/// What the running worker says of itself.
async fn status(paths: &Paths) -> Option<Value> {
    let client = Client::find(paths).ok()??;
    let asked = client.json(Method::GET, "/daemon/status", None);
    tokio::time::timeout(LIMIT, asked).await.ok()?.ok()
}

/// Which of two is in force, and the same for people.
fn told(status: &Value, field: &str, which: &str) -> Option<(String, String)> {
    let field = status.get(field)?;
    let detail = field.get("detail")?.as_str()?.to_owned();
    Some((field.get(which)?.as_str()?.to_owned(), detail))
}

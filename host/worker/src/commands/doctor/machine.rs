//! The machine: GPU, memory, Vulkan, and what the kernel has for the sandbox.

use std::fs;
use std::path::Path;

use tokio_util::sync::CancellationToken;
use worker_backends::{Machine, gib, vulkan};

use super::Check;

pub(super) async fn checks(work: &Path) -> Vec<Check> {
    let state = Machine::new(work.join("work"))
        .state(&CancellationToken::new())
        .await;
    let gpu = match &state.gpu {
        Some(gpu) => {
            let free = gpu.free.map_or_else(
                || "free memory unknown".to_owned(),
                |free| format!("{:.1} GiB free", gib(free)),
            );
            let found = format!("{}, {:.1} GiB, {free}", gpu.name, gib(gpu.total));
            Check::ok("gpu", found)
        }
        None => Check::warning(
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

/// What the kernel has to confine programs with, as far as its files tell.
fn sandbox_check() -> Check {
    let lsm = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let landlock = lsm.trim().split(',').any(|module| module == "landlock");
    let seccomp = status.lines().any(|line| line.starts_with("Seccomp:"));
    let word = |there| if there { "yes" } else { "no" };
    let found = format!("landlock {}, seccomp {}", word(landlock), word(seccomp));
    if landlock && seccomp {
        return Check::ok("sandbox", found);
    }
    Check::warning(
        "sandbox",
        found,
        "programs are not confined by what the kernel lacks: use Linux 5.13 or later with Landlock on (`lsm=` of the kernel's command line)",
    )
}

//! Files, folders, devices and ports, by Landlock.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::SandboxPolicy;

/// The newest version that is known here. What a kernel lacks of it is left out.
const NEWEST: ABI = ABI::V7;
const VERSIONS: [ABI; 7] = [
    ABI::V7,
    ABI::V6,
    ABI::V5,
    ABI::V4,
    ABI::V3,
    ABI::V2,
    ABI::V1,
];

/// Programs and libraries, wherever distributions keep them. What is missing is passed over.
const SYSTEM: [&str; 11] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/run/opengl-driver",
    "/run/current-system/sw",
];
/// What programs read besides: the loader's cache, the time zone, facts about processors and memory. Nothing here tells of
/// other users or processes.
const READ: [&str; 16] = [
    "/etc/ld.so.cache",
    "/etc/ld-musl-x86_64.path",
    "/etc/localtime",
    "/etc/timezone",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/devices",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
    "/proc/sys/vm",
    "/sys/devices/system",
];
/// Devices that swallow or give nothing.
const READ_WRITE: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];
/// How drivers of GPUs are configured and where some keep their libraries.
const GPU_READ: [&str; 13] = [
    "/sys",
    "/proc/driver/nvidia",
    "/proc/modules",
    "/etc/vulkan",
    "/etc/glvnd",
    "/etc/OpenCL",
    "/etc/nvidia",
    "/etc/drirc",
    "/etc/egl",
    "/opt/rocm",
    "/opt/amdgpu",
    "/opt/intel",
    "/opt/cuda",
];
/// Devices of GPUs; those of NVIDIA are numbered and looked for.
const GPU_DEVICES: [&str; 4] = ["/dev/dri", "/dev/kfd", "/dev/dxg", "/dev/nvidia-caps"];

/// The kernel's version of Landlock, up to the newest that is known here.
pub(super) fn abi() -> Option<u32> {
    let usable = |abi: &ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let handled = ruleset
            .handle_access(AccessFs::from_all(*abi))
            .and_then(|ruleset| match abi {
                ABI::V1 | ABI::V2 | ABI::V3 => Ok(ruleset),
                _ => ruleset.handle_access(AccessNet::from_all(*abi)),
            })
            .and_then(|ruleset| match abi {
                ABI::V1 | ABI::V2 | ABI::V3 | ABI::V4 | ABI::V5 => Ok(ruleset),
                _ => ruleset.scope(Scope::from_all(*abi)),
            });
        handled.and_then(Ruleset::create).is_ok()
    };
    // The sixth and the seventh differ in nothing that is used here.
    VERSIONS
        .iter()
        .find(|abi| usable(abi))
        .and_then(|abi| abi.to_string().parse().ok())
}

/// The rules of one program. None where the kernel has no Landlock.
pub(super) fn ruleset(policy: &SandboxPolicy, home: &Path) -> io::Result<Option<OwnedFd>> {
    let handled = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create);
    let mut rules = Rules(handled.map_err(io::Error::other)?);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = read | AccessFs::Execute;
    let all = AccessFs::from_all(NEWEST) & !BitFlags::from(AccessFs::Execute);
    let scratch = all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let device = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;

    for path in SYSTEM {
        rules.where_there(Path::new(path), execute)?;
    }
    for path in READ {
        rules.where_there(Path::new(path), read)?;
    }
    for path in READ_WRITE {
        rules.where_there(Path::new(path), device)?;
    }
    if policy.gpu {
        for path in GPU_READ {
            rules.where_there(Path::new(path), execute)?;
        }
        for path in GPU_DEVICES.iter().map(PathBuf::from).chain(nvidia()) {
            rules.where_there(&path, device)?;
        }
    }
    for path in &policy.also_readable {
        rules.where_there(path, execute)?;
    }
    for path in &policy.also_writable {
        rules.where_there(path, scratch)?;
    }
    rules.add(&policy.program_dir, execute)?;
    for path in &policy.readable {
        rules.add(path, read)?;
    }
    for path in [&policy.scratch, home]
        .into_iter()
        .chain(policy.cache_dir.as_deref())
    {
        rules.add(path, scratch)?;
    }
    if let Some(port) = policy.listen {
        rules.listen(port)?;
    }
    Ok(rules.0.into())
}

/// `/dev/nvidia0`, `/dev/nvidiactl`, `/dev/nvidia-uvm`, …
fn nvidia() -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nvidia"))
        .map(|entry| entry.path())
}

struct Rules(RulesetCreated);

impl Rules {
    /// Opens a path that may be missing.
    fn where_there(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        match self.add(path, access) {
            Err(error) if is_missing(&error) => Ok(()),
            other => other,
        }
    }

    /// Opens a path as far as that makes sense for what it is: a file cannot be listed.
    fn add(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        let about = |source: io::Error| {
            io::Error::new(source.kind(), format!("{}: {source}", path.display()))
        };
        let is_dir = std::fs::metadata(path).map_err(about)?.is_dir();
        let access = if is_dir {
            access
        } else {
            access & AccessFs::from_file(NEWEST)
        };
        let opened = PathFd::new(path).map_err(io::Error::other)?;
        (&mut self.0)
            .add_rule(PathBeneath::new(opened, access))
            .map_err(io::Error::other)?;
        Ok(())
    }

    fn listen(&mut self, port: u16) -> io::Result<()> {
        (&mut self.0)
            .add_rule(NetPort::new(port, AccessNet::BindTcp))
            .map_err(io::Error::other)?;
        Ok(())
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

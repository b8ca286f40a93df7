//! Where upstream publishes its programs, and what to say where it does not.

use studio_plugin::{BackendStatus, Build, Failure, Platform, RawJob};

use crate::{PROGRAM, RELEASE};

/// Upstream's releases; the plugin's grants name it as the only place to download programs from.
const RELEASES: &str = "https://github.com/leejet/stable-diffusion.cpp/releases/download";

/// Archives of a release, with `sd-cli` and, since it exists, `sd-server`: Vulkan builds, which run on any vendor's GPU.
///
/// Upstream has none for Linux on Arm. Its macOS archives carry the version of the machine that built them, known for
/// some releases only; between those the nearest is taken, and a wrong one is a download that answers 404. Tags before
/// September 2025, up to about 262, have no number; not all of their archives are called like this, which is a 404 as well.
pub(crate) fn of(release: &str) -> Result<Vec<Build>, Failure> {
    let wrong = || {
        Failure::permanent(format!(
            "{release:?} is no release of stable-diffusion.cpp; STUDIO_WORKER_SDCPP_RELEASE takes one such as {RELEASE}"
        ))
    };
    let (number, commit) = tag(release).ok_or_else(wrong)?;
    let build = |os: &str, arch: &str, suffix: &str| Build {
        os: os.to_owned(),
        arch: arch.to_owned(),
        url: format!("{RELEASES}/{release}/sd-master-{commit}-bin-{suffix}.zip"),
        sha256: None,
    };
    let macos = match number.unwrap_or_default() {
        ..=700 => "15.7.7",
        701..=900 => "26.5.2",
        _ => "26.6.2",
    };
    Ok(vec![
        build("linux", "x86_64", "Linux-Ubuntu-24.04-x86_64-vulkan"),
        build("windows", "x86_64", "win-vulkan-x64"),
        build("macos", "aarch64", &format!("Darwin-macOS-{macos}-arm64")),
    ])
}

/// Number and commit of a release by its tag, `master-827-97d2990` or, from the days without numbers, `master-97d2990`.
pub(crate) fn tag(release: &str) -> Option<(Option<u32>, &str)> {
    let rest = release.strip_prefix("master-")?;
    let (number, commit) = match rest.split_once('-') {
        Some((number, commit)) => (Some(number.parse().ok()?), commit),
        None => (None, rest),
    };
    let sound = (7..=40).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit());
    sound.then_some((number, commit))
}

/// The program as it is on this machine, or what to do to get it there.
pub(crate) fn installed(job: &RawJob) -> Result<&BackendStatus, Failure> {
    if let Some(backend) = job.backends.iter().find(|backend| backend.name == PROGRAM) {
        return Ok(backend);
    }
    let Platform { os, arch, .. } = &job.platform;
    let published = of(RELEASE)?
        .iter()
        .any(|build| build.os == *os && build.arch == *arch);
    if published {
        return Err(Failure::retryable(format!(
            "{PROGRAM} is not on this machine; let the worker download {RELEASE} (its log says why it did not), or put {PROGRAM} on the PATH \
             or where STUDIO_WORKER_SD_CLI points"
        )));
    }
    Err(Failure::permanent(format!(
        "stable-diffusion.cpp publishes no {PROGRAM} for {os} on {arch}; build {RELEASE} from source and put {PROGRAM} with its \
         library on the PATH, or where STUDIO_WORKER_SD_CLI points"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::raw;

    #[test]
    fn archives_of_the_release_written_for() {
        let urls: Vec<_> = of(RELEASE)
            .unwrap()
            .into_iter()
            .map(|build| build.url)
            .collect();
        let base = "https://github.com/leejet/stable-diffusion.cpp/releases/download/master-827-97d2990/sd-master-97d2990-bin-";
        assert_eq!(
            urls,
            [
                "Linux-Ubuntu-24.04-x86_64-vulkan",
                "win-vulkan-x64",
                "Darwin-macOS-26.5.2-arm64"
            ]
            .map(|suffix| format!("{base}{suffix}.zip"))
        );
    }

    #[test]
    fn the_first_tags_have_no_number() {
        for tag in ["master-c9b5735", "master-1234567"] {
            let builds = of(tag).unwrap();
            let commit = tag.strip_prefix("master-").unwrap();
            let name = format!("/{tag}/sd-master-{commit}-bin-");
            assert!(
                builds.iter().all(|build| build.url.contains(&name)),
                "{builds:?}"
            );
            assert!(
                builds
                    .iter()
                    .any(|build| build.url.contains("macOS-15.7.7"))
            );
        }
    }

    #[test]
    fn what_is_no_release_is_refused() {
        for text in [
            "",
            "827",
            "master-827",
            "master-x-97d2990",
            "master-827-../../x",
            "master-827-97d2990-x",
            "master-97d299",
            "master-97d2990-827",
            "master--97d2990",
            "master-97d2990x",
        ] {
            assert!(!of(text).unwrap_err().retryable, "{text}");
        }
    }

    #[test]
    fn a_platform_without_builds_is_told_to_install_by_hand() {
        for (os, arch) in [("linux", "aarch64"), ("macos", "x86_64")] {
            let mut job = raw("", &[]);
            job.backends.clear();
            (job.platform.os, job.platform.arch) = (os.to_owned(), arch.to_owned());
            let failure = installed(&job).unwrap_err();
            assert!(failure.message.contains(&format!("{os} on {arch}")));
            assert!(failure.message.contains("STUDIO_WORKER_SD_CLI"));
            assert!(!failure.retryable);
        }
    }

    #[test]
    fn a_program_that_could_be_there_may_come() {
        let mut job = raw("", &[]);
        job.backends.clear();
        let failure = installed(&job).unwrap_err();
        assert!(failure.retryable && failure.message.contains(RELEASE));
        // Nobody has tried yet when a job is only planned.
        assert!(
            !failure.message.contains("could not"),
            "{}",
            failure.message
        );
    }
}

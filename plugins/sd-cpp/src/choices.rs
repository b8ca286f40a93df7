//! Which value wins: the task's, the model's, or this plugin's.
//!
//! Two rules differ from the reference worker. It took a step count of 20 for "not chosen", so that 20 could not
//! be asked for; and it took a size left out for 512, so that a model's own size was reached only by an
//! explicit 0. Here a field that is there counts, and one that is absent or 0 is left to the model.

use studio_plugin::{CliDefaults, Failure, ImageTask};

use crate::probe::Probe;

/// Pixels where neither task nor model says; what today's models are trained at.
const SIDE: u32 = 1024;

/// Steps where neither says: enough for a distilled model, and a quick if rough picture from others.
const STEPS: u32 = 8;

/// Guidance where neither says: none.
const CFG_SCALE: f32 = 1.0;

/// The option of the sampler, and one that every release has.
pub(crate) const SAMPLER: &str = "--sampling-method";
pub(crate) const USUAL_SAMPLER: &str = "euler";

/// How far to go from an initial picture where the task does not say.
const STRENGTH: f32 = 0.75;

/// Longest side. Larger ones overflow the program's own arithmetic long before they fit a GPU, and the picture would be refused afterwards.
const LONGEST_SIDE: u32 = 16_384;

/// Most steps. No sampler gains from more; a wild number would hold the GPU for days.
const MOST_STEPS: u32 = 10_000;

/// What releases that do not round sizes take multiples of.
const MULTIPLE: u32 = 64;

/// Pixels of one side. Where the program does not round it up by itself, it is rounded up to what the program takes.
pub(crate) fn side(
    name: &str,
    task: Option<u32>,
    model: u32,
    rounds: bool,
) -> Result<u32, Failure> {
    let side = first_above_zero(task, model).unwrap_or(SIDE);
    let side = bounded(name, side, LONGEST_SIDE)?;
    Ok(if rounds {
        side
    } else {
        side.next_multiple_of(MULTIPLE)
    })
}

/// Steps.
pub(crate) fn steps(task: &ImageTask, model: &CliDefaults) -> Result<u32, Failure> {
    bounded(
        "steps",
        first_above_zero(task.steps, model.steps).unwrap_or(STEPS),
        MOST_STEPS,
    )
}

fn first_above_zero(task: Option<u32>, model: u32) -> Option<u32> {
    [task.unwrap_or(0), model]
        .into_iter()
        .find(|number| *number > 0)
}

fn bounded(name: &str, number: u32, most: u32) -> Result<u32, Failure> {
    if number <= most {
        return Ok(number);
    }
    Err(Failure::permanent(format!(
        "{name} is {number}, and sd-cli is given at most {most}; ask for less"
    )))
}

/// Guidance.
pub(crate) fn cfg_scale(task: &ImageTask, model: &CliDefaults) -> f32 {
    [task.cfg_scale.unwrap_or(0.0), model.cfg_scale]
        .into_iter()
        .find(|scale| *scale > 0.0)
        .unwrap_or(CFG_SCALE)
}

/// Name of the sampler; none leaves it to the program. An empty name is none. One that the program's help does not list
/// is refused before anything is downloaded.
pub(crate) fn sampler(
    task: &ImageTask,
    model: &CliDefaults,
    probe: &Probe,
) -> Result<Option<String>, Failure> {
    let name = [&task.sampling_method, &model.sampling_method]
        .into_iter()
        .flatten()
        .map(|name| name.trim())
        .find(|name| !name.is_empty());
    match name {
        Some(name) if !probe.takes(SAMPLER, name, USUAL_SAMPLER) => {
            Err(Failure::permanent(format!(
                "the sd-cli here ({}) has no sampler {name:?}; correct samplingMethod in the task or in the model's cliDefaults, or install \
             a release that has it",
                probe.name()
            )))
        }
        name => Ok(name.map(str::to_owned)),
    }
}

/// How far to go from an initial picture.
pub(crate) fn strength(task: &ImageTask) -> Result<f32, Failure> {
    let strength = task.denoise.unwrap_or(STRENGTH);
    if (0.0..=1.0).contains(&strength) {
        return Ok(strength);
    }
    Err(Failure::permanent(format!(
        "task.denoise is {strength}, and must be from 0 to 1"
    )))
}

/// The seed: the task's, else one drawn for the job, so that the record always says which it was.
pub(crate) fn seed(task: &ImageTask, entropy: u64) -> Result<u64, Failure> {
    match task.seed {
        Some(seed) if i64::try_from(seed).is_err() => Err(Failure::permanent(format!(
            "task.seed is {seed}, and sd-cli takes at most {}; choose a smaller one",
            i64::MAX
        ))),
        Some(seed) => Ok(seed),
        None => Ok(entropy >> 1),
    }
}

/// The extension that the program is to write: the one asked for where it can, else one that loses nothing.
/// A WebP of the program's is lossy; it is what was asked for.
pub(crate) fn ext(asked: &str, writes_webp: bool) -> &'static str {
    match asked.trim().to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "jpg",
        // The program writes no BMP; it is made from the PNG afterwards.
        "png" | "bmp" => "png",
        _ if writes_webp => "webp",
        _ => "png",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NEWEST, defaults, probe, task};

    #[test]
    fn sides_are_the_tasks_then_the_models_then_1024() {
        for (asked, model, expected) in [
            (Some(640), 768, 640),
            (Some(0), 768, 768),
            (None, 768, 768),
            (Some(0), 0, 1024),
            (None, 0, 1024),
            (Some(512), 768, 512),
        ] {
            assert_eq!(side("width", asked, model, true).unwrap(), expected);
        }
        assert!(!side("height", Some(16_385), 0, true).unwrap_err().retryable);
        assert_eq!(side("width", Some(100), 0, false), Ok(128));
        assert_eq!(side("width", Some(128), 0, false), Ok(128));
    }

    #[test]
    fn steps_are_the_tasks_then_the_models_then_8_and_20_is_a_number_like_any() {
        for (asked, model, expected) in [("20", 8, 20), ("4", 8, 4), ("0", 9, 9), ("0", 0, 8)] {
            let task = task(&format!(r#""steps":{asked}"#));
            assert_eq!(
                steps(&task, &defaults(&format!(r#""steps":{model}"#))).unwrap(),
                expected
            );
        }
        assert_eq!(steps(&task(""), &defaults(r#""steps":6"#)).unwrap(), 6);
        assert_eq!(steps(&task(""), &defaults("")).unwrap(), 8);
    }

    #[test]
    fn guidance_is_the_tasks_above_zero_then_the_models_then_1() {
        for (asked, model, expected) in [
            (r#""cfgScale":3.5"#, r#""cfgScale":2"#, 3.5),
            (r#""cfgScale":0"#, r#""cfgScale":2"#, 2.0),
            (r#""cfgScale":-1"#, r#""cfgScale":2"#, 2.0),
            (r#""cfgScale":null"#, r#""cfgScale":0"#, 1.0),
            ("", "", 1.0),
        ] {
            assert_eq!(cfg_scale(&task(asked), &defaults(model)), expected);
        }
    }

    #[test]
    fn the_sampler_is_the_tasks_then_the_models_then_left_out() {
        for (asked, model, expected) in [
            (
                r#""samplingMethod":"lcm""#,
                r#""samplingMethod":"euler""#,
                Some("lcm"),
            ),
            (
                r#""samplingMethod":"""#,
                r#""samplingMethod":"euler""#,
                Some("euler"),
            ),
            (r#""samplingMethod":null"#, r#""samplingMethod":" ""#, None),
            ("", "", None),
        ] {
            let sampler = sampler(&task(asked), &defaults(model), &probe(NEWEST)).unwrap();
            assert_eq!(sampler.as_deref(), expected);
        }
        let help = probe("  --sampling-method  one of [euler, lcm]");
        let failure =
            sampler(&task(r#""samplingMethod":"lms""#), &defaults(""), &help).unwrap_err();
        assert!(failure.message.contains("no sampler \"lms\"") && !failure.retryable);
    }

    #[test]
    fn strength_is_the_tasks_or_three_quarters_and_within_bounds() {
        assert_eq!(strength(&task("")).unwrap(), 0.75);
        assert_eq!(strength(&task(r#""denoise":0"#)).unwrap(), 0.0);
        assert_eq!(strength(&task(r#""denoise":1"#)).unwrap(), 1.0);
        assert!(
            strength(&task(r#""denoise":1.1"#))
                .unwrap_err()
                .message
                .contains("task.denoise")
        );
    }

    #[test]
    fn a_seed_is_always_there_and_never_beyond_what_the_program_reads() {
        assert_eq!(seed(&task(r#""seed":7"#), 1).unwrap(), 7);
        assert_eq!(seed(&task(""), u64::MAX).unwrap(), i64::MAX.cast_unsigned());
        assert!(
            !seed(&task(r#""seed":9223372036854775808"#), 1)
                .unwrap_err()
                .retryable
        );
    }

    #[test]
    fn extensions() {
        for (asked, webp, expected) in [
            ("webp", true, "webp"),
            ("webp", false, "png"),
            (" PNG", true, "png"),
            ("jpeg", true, "jpg"),
            ("jpg", false, "jpg"),
            ("bmp", true, "png"),
            ("avif", true, "webp"),
        ] {
            assert_eq!(ext(asked, webp), expected);
        }
    }
}

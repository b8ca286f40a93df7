//! The options of the real program, with the releases that have them.
//!
//! The help text and the parser are both made from this table: an option that is not in the help of a
//! release is an unknown argument there, as with the real one.

use crate::release::Release;

/// What an option takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    /// Nothing.
    None,
    Text,
    Int,
    Float,
    /// One of these words, each from a release on.
    Word(&'static [(&'static str, u32)]),
}

/// Heading of the help under which an option stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Cli,
    Server,
    Context,
    Generation,
}

/// Which of the two programs is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Cli,
    Server,
}

impl Program {
    /// By the name it was started under.
    pub(crate) fn of(path: &std::path::Path) -> Self {
        let name = path.file_stem().unwrap_or_default();
        if name.to_string_lossy().starts_with("sd-server") {
            Self::Server
        } else {
            Self::Cli
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cli => "sd-cli",
            Self::Server => "sd-server",
        }
    }
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<&'static str>,
    pub(crate) value: Value,
    pub(crate) group: Group,
    /// First release that has it.
    pub(crate) from: u32,
    /// Last release that has it.
    pub(crate) until: u32,
    pub(crate) help: &'static str,
}

const NEWEST: u32 = u32::MAX;

/// An invented release, later than all there are: it renames one option that every job needs, as real ones have done.
const RENAMED_STEPS: u32 = 990;

const fn flag(
    group: Group,
    long: &'static str,
    value: Value,
    from: u32,
    help: &'static str,
) -> Flag {
    Flag {
        long,
        short: None,
        value,
        group,
        from,
        until: NEWEST,
        help,
    }
}

impl Flag {
    const fn short(mut self, short: &'static str) -> Self {
        self.short = Some(short);
        self
    }

    const fn until(mut self, last: u32) -> Self {
        self.until = last;
        self
    }

    /// Whether a release has it.
    pub(crate) fn exists_in(&self, release: Release) -> bool {
        (self.from..=self.until).contains(&release.0)
    }

    /// Whether it belongs to a program: both take what concerns the model and the picture.
    pub(crate) fn is_of(&self, program: Program) -> bool {
        match self.group {
            Group::Cli => {
                program == Program::Cli || matches!(self.long, "--help" | "--verbose" | "--color")
            }
            Group::Server => program == Program::Server,
            Group::Context | Group::Generation => true,
        }
    }
}

/// The option that an argument names, in a release of a program.
pub(crate) fn find(argument: &str, release: Release, program: Program) -> Option<&'static Flag> {
    TABLE.iter().find(|flag| {
        (flag.long == argument || flag.short == Some(argument))
            && flag.exists_in(release)
            && flag.is_of(program)
    })
}

const SAMPLERS: &[(&str, u32)] = &[
    ("euler", 41),
    ("euler_a", 41),
    ("heun", 41),
    ("dpm++2m", 41),
    ("dpm++2mv2", 41),
    ("dpm2", 43),
    ("dpm++2s_a", 43),
    ("lcm", 54),
    ("ipndm", 146),
    ("ipndm_v", 146),
    ("ddim_trailing", 200),
    ("tcd", 200),
    ("res_multistep", 490),
    ("res_2s", 490),
    ("er_sde", 572),
    ("euler_cfg_pp", 599),
    ("euler_a_cfg_pp", 599),
    ("euler_ge", 620),
    ("dpm++2m_sde", 752),
    ("dpm++2m_sde_bt", 754),
    ("lms", 809),
];
/// Whether any release knows a sampler of this name.
pub(crate) fn is_sampler(name: &str) -> bool {
    SAMPLERS.iter().any(|(sampler, _)| *sampler == name)
}

const SCHEDULERS: &[(&str, u32)] = &[
    ("discrete", 42),
    ("karras", 42),
    ("ays", 119),
    ("gits", 145),
    ("exponential", 147),
    ("sgm_uniform", 294),
    ("simple", 294),
    ("lcm", 375),
    ("kl_optimal", 426),
    ("bong_tangent", 490),
    ("ltx2", 615),
    ("logit_normal", 720),
    ("flux2", 735),
    ("flux", 736),
    ("normal", 737),
    ("beta", 741),
];
/// Up to release 239.
const OLD_MODES: &[(&str, u32)] = &[
    ("txt2img", 1),
    ("img2img", 7),
    ("convert", 89),
    ("img2vid", 93),
    ("edit", 212),
];
const MODES: &[(&str, u32)] = &[
    ("img_gen", 240),
    ("vid_gen", 240),
    ("convert", 240),
    ("upscale", 316),
    ("metadata", 550),
    ("adetailer", 779),
];
const RNGS: &[(&str, u32)] = &[("std_default", 0), ("cuda", 0), ("cpu", 362)];
const PREDICTIONS: &[(&str, u32)] = &[
    ("eps", 325),
    ("v", 325),
    ("edm_v", 325),
    ("sd3_flow", 325),
    ("flux_flow", 325),
];
const LORA_MODES: &[(&str, u32)] = &[("auto", 358), ("immediately", 358), ("at_runtime", 358)];
const OLD_SCHEDULERS: &[(&str, u32)] = &[
    ("default", 1),
    ("discrete", 42),
    ("karras", 42),
    ("ays", 119),
    ("gits", 145),
    ("exponential", 147),
];
const PREVIEWS: &[(&str, u32)] = &[("none", 354), ("proj", 354), ("tae", 354), ("vae", 354)];

use Group::{Cli, Context, Generation, Server};
use Value::{Float, Int, None as Bare, Text, Word};

/// Every option that is played.
#[rustfmt::skip]
pub(crate) const TABLE: &[Flag] = &[
    flag(Cli, "--output", Text, 1, "where the picture is written; a printf-like %d numbers a sequence (default: ./output.png)").short("-o"),
    flag(Cli, "--output-begin-idx", Int, 483, "first number of a sequence"),
    flag(Cli, "--preview-path", Text, 354, "where previews are written (default: ./preview.png)"),
    flag(Cli, "--preview-interval", Int, 354, "steps between two previews (default: 1)"),
    flag(Cli, "--canny", Bare, 107, "find edges in the control picture first"),
    flag(Cli, "--verbos", Bare, 240, "say more").short("-v").until(261),
    flag(Cli, "--verbose", Bare, 1, "say more").short("-v").until(239),
    flag(Cli, "--verbose", Bare, 262, "say more").short("-v"),
    flag(Cli, "--color", Bare, 134, "colour the levels of the log"),
    flag(Cli, "--taesd-preview-only", Bare, 354, "the tiny decoder serves previews only"),
    flag(Cli, "--preview-noisy", Bare, 354, "previews show the input of a step instead of its output"),
    flag(Cli, "--list-devices", Bare, 747, "print the compute devices and end"),
    flag(Cli, "--mode", Word(OLD_MODES), 1, "what to do (default: txt2img)").short("-M").until(239),
    flag(Cli, "--mode", Word(MODES), 240, "what to do (default: img_gen)").short("-M"),
    flag(Cli, "--preview", Word(PREVIEWS), 354, "how previews are made (default: none)"),
    flag(Cli, "--help", Bare, 1, "print this and end").short("-h"),

    flag(Server, "--listen-ip", Text, 411, "address to listen on (default: 127.0.0.1)").short("-l"),
    flag(Server, "--listen-port", Int, 411, "port to listen on (default: 1234)"),

    flag(Context, "--model", Text, 1, "file with the whole model").short("-m"),
    flag(Context, "--clip_l", Text, 134, "file with the CLIP-L text encoder"),
    flag(Context, "--clip_g", Text, 149, "file with the CLIP-G text encoder"),
    flag(Context, "--clip_vision", Text, 290, "file with the CLIP vision encoder"),
    flag(Context, "--t5xxl", Text, 134, "file with the T5-XXL text encoder"),
    flag(Context, "--llm", Text, 378, "file with the language model that encodes the text (Qwen-Image, FLUX.2, Z-Image)"),
    flag(Context, "--llm_vision", Text, 378, "file with that model's vision tower"),
    flag(Context, "--qwen2vl", Text, 318, "older name of --llm"),
    flag(Context, "--qwen2vl_vision", Text, 323, "older name of --llm_vision"),
    flag(Context, "--diffusion-model", Text, 134, "file with the diffusion model alone"),
    flag(Context, "--high-noise-diffusion-model", Text, 294, "file with the model of the noisy half"),
    flag(Context, "--vae", Text, 65, "file with the VAE"),
    flag(Context, "--taesd", Text, 80, "file with a tiny decoder, quick and rough"),
    flag(Context, "--tae", Text, 421, "same as --taesd"),
    flag(Context, "--control-net", Text, 107, "file with a ControlNet"),
    flag(Context, "--embd-dir", Text, 91, "folder of textual inversions"),
    flag(Context, "--lora-model-dir", Text, 55, "folder in which LoRAs named in the prompt are looked for (default: .)"),
    flag(Context, "--tensor-type-rules", Text, 250, "weight type by tensor name pattern"),
    flag(Context, "--model-args", Text, 765, "key=value settings of one architecture, separated by commas"),
    flag(Context, "--photo-maker", Text, 121, "file with a PhotoMaker model"),
    flag(Context, "--upscale-model", Text, 98, "file with an ESRGAN model"),
    flag(Context, "--threads", Int, 1, "threads to compute with; 0 and less: one per physical core (default: -1)").short("-t"),
    flag(Context, "--chroma-t5-mask-pad", Int, 252, "padding of Chroma's T5 mask").until(764),
    flag(Context, "--chroma-disable-dit-mask", Bare, 252, "no mask in Chroma's transformer").until(764),
    flag(Context, "--chroma-enable-t5-mask", Bare, 252, "a mask for Chroma's T5").until(764),
    flag(Context, "--qwen-image-zero-cond-t", Bare, 444, "Qwen-Image's edit models: zero timestep for the condition").until(764),
    flag(Context, "--backend", Text, 611, "which device runs which part"),
    flag(Context, "--params-backend", Text, 611, "which device holds which part's weights"),
    flag(Context, "--max-vram", Text, 596, "GiB that weights may take on the device; negative: find out"),
    flag(Context, "--auto-fit", Text, 749, "spread the model over what memory there is"),
    flag(Context, "--split-mode", Text, 747, "how a model is split over devices"),
    flag(Context, "--rpc-servers", Text, 747, "remote compute servers"),
    flag(Context, "--offload-to-cpu", Bare, 263, "keep weights in host memory until they are needed"),
    flag(Context, "--mmap", Bare, 451, "map the model file instead of reading it"),
    flag(Context, "--stream-layers", Bare, 667, "bring layers to the device one after another"),
    flag(Context, "--eager-load", Bare, 715, "load every part before the first picture"),
    flag(Context, "--clip-on-cpu", Bare, 107, "deprecated, see --backend"),
    flag(Context, "--vae-on-cpu", Bare, 114, "deprecated, see --backend"),
    flag(Context, "--control-net-cpu", Bare, 107, "deprecated, see --backend"),
    flag(Context, "--fa", Bare, 492, "flash attention everywhere"),
    flag(Context, "--diffusion-fa", Bare, 166, "flash attention in the diffusion model"),
    flag(Context, "--diffusion-conv-direct", Bare, 227, "direct convolutions in the diffusion model"),
    flag(Context, "--vae-conv-direct", Bare, 227, "direct convolutions in the VAE"),
    flag(Context, "--force-sdxl-vae-conv-scale", Bare, 250, "scale SDXL's VAE against overflow"),
    flag(Context, "--type", Text, 20, "weight type, as f16, q8_0, q4_K"),
    flag(Context, "--rng", Word(RNGS), 20, "random number generator"),
    flag(Context, "--sampler-rng", Word(RNGS), 365, "generator of the sampler"),
    flag(Context, "--prediction", Word(PREDICTIONS), 325, "what the model predicts"),
    flag(Context, "--lora-apply-mode", Word(LORA_MODES), 358, "when LoRAs are merged (default: auto)"),

    flag(Generation, "--prompt", Text, 1, "what to draw").short("-p"),
    flag(Generation, "--prompt-file", Text, 716, "file with what to draw"),
    flag(Generation, "--negative-prompt", Text, 1, "what not to draw").short("-n"),
    flag(Generation, "--negative-prompt-file", Text, 716, "file with what not to draw"),
    flag(Generation, "--init-img", Text, 7, "picture to start from").short("-i"),
    flag(Generation, "--end-img", Text, 293, "picture to end with"),
    flag(Generation, "--mask", Text, 175, "white where the picture may change"),
    flag(Generation, "--control-image", Text, 107, "picture for the ControlNet"),
    flag(Generation, "--pm-id-images-dir", Text, 293, "pictures of the person, for PhotoMaker"),
    flag(Generation, "--pm-id-embed-path", Text, 293, "embedding of the person, for PhotoMaker"),
    flag(Generation, "--height", Int, 1, "pixels (default: 512)").short("-H"),
    flag(Generation, "--width", Int, 1, "pixels (default: 512)").short("-W"),
    flag(Generation, "--steps", Int, 1, "steps (default: 20)").until(RENAMED_STEPS - 1),
    flag(Generation, "--sampling-steps", Int, RENAMED_STEPS, "steps (default: 20)"),
    flag(Generation, "--clip-skip", Int, 95, "layers of CLIP to leave out"),
    flag(Generation, "--batch-count", Int, 42, "pictures to make").short("-b"),
    flag(Generation, "--cfg-scale", Float, 1, "guidance (default: 7.0)"),
    flag(Generation, "--img-cfg-scale", Float, 217, "guidance by the picture"),
    flag(Generation, "--guidance", Float, 134, "distilled guidance (default: 3.5)"),
    flag(Generation, "--eta", Float, 200, "noise that a sampler adds"),
    flag(Generation, "--strength", Float, 7, "how much of the picture is noise at first, 0 to 1 (default: 0.75)"),
    flag(Generation, "--control-strength", Float, 107, "weight of the ControlNet (default: 0.9)"),
    flag(Generation, "--flow-shift", Float, 265, "shift of flow models (default: by model)"),
    flag(Generation, "--timestep-shift", Int, 269, "shift for NitroFusion"),
    flag(Generation, "--vae-tiling", Bare, 77, "decode in tiles"),
    flag(Generation, "--vae-tile-size", Text, 290, "size of a tile (default: 32x32)"),
    flag(Generation, "--vae-tile-overlap", Float, 290, "how much tiles overlap (default: 0.5)"),
    flag(Generation, "--hires", Bare, 586, "a second pass at a larger size"),
    flag(Generation, "--increase-ref-index", Bare, 250, "number the reference pictures"),
    flag(Generation, "--disable-auto-resize-ref-image", Bare, 331, "take reference pictures as large as they are"),
    flag(Generation, "--disable-image-metadata", Bare, 547, "keep the settings out of the picture's file"),
    flag(Generation, "--seed", Int, 1, "seed; negative: by chance (default: 42)").short("-s"),
    flag(Generation, "--sampling-method", Word(SAMPLERS), 41, "sampler (default: by model)"),
    flag(Generation, "--schedule", Word(OLD_SCHEDULERS), 42, "schedule of noise").until(262),
    flag(Generation, "--high-noise-scheduler", Word(SCHEDULERS), 293, "schedule of the noisy half").until(373),
    flag(Generation, "--easycache", Text, 412, "what to reuse between steps").until(437),
    flag(Generation, "--style-ratio", Float, 121, "strength of the person, for PhotoMaker").until(292),
    flag(Generation, "--input-id-images-dir", Text, 121, "pictures of the person, for PhotoMaker").until(292),
    flag(Context, "--stacked-id-embd-dir", Text, 121, "file with a PhotoMaker model").until(292),
    flag(Generation, "--normalize-input", Bare, 121, "normalise the pictures, for PhotoMaker").until(300),
    flag(Generation, "--scheduler", Word(SCHEDULERS), 263, "schedule of noise (default: by model)"),
    flag(Generation, "--sigmas", Text, 414, "noise levels, separated by commas"),
    flag(Generation, "--extra-sample-args", Text, 602, "key=value settings of the sampler"),
    flag(Generation, "--ref-image", Text, 212, "picture to refer to; may be given more than once").short("-r"),
    flag(Generation, "--ref-image-args", Text, 776, "key=value settings of reference pictures"),
    flag(Generation, "--cache-mode", Text, 438, "what to reuse between steps"),
    flag(Generation, "--cache-option", Text, 438, "key=value settings of that"),
];

#[cfg(test)]
mod tests {
    use super::{Program, Release, TABLE, find};

    #[test]
    fn names_are_unique_within_a_release() {
        for release in [212, 239, 240, 262, 300, 444, 764, 765, 827, 989, 990].map(Release) {
            let mut names: Vec<_> = TABLE
                .iter()
                .filter(|flag| flag.exists_in(release))
                .flat_map(|flag| [Some(flag.long), flag.short])
                .flatten()
                .collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }

    #[test]
    fn drift_of_the_flags_that_bit() {
        let known = |flag: &str, release| find(flag, Release(release), Program::Cli).is_some();
        assert!(known("--schedule", 262) && !known("--schedule", 263));
        assert!(known("--verbos", 261) && !known("--verbose", 261) && known("--verbose", 262));
        assert!(find("-o", Release(827), Program::Server).is_none());
        assert!(find("--listen-port", Release(827), Program::Cli).is_none());
        assert!(!known("--qwen-image-zero-cond-t", 443));
        assert!(known("--qwen-image-zero-cond-t", 444));
        assert!(known("--qwen-image-zero-cond-t", 764));
        assert!(!known("--qwen-image-zero-cond-t", 765));
        assert!(known("--model-args", 765));
        assert!(known("--steps", 989) && !known("--sampling-steps", 989));
        assert!(!known("--steps", 990) && known("--sampling-steps", 990));
        assert!(!known("--llm", 377) && known("--qwen2vl", 377));
        assert!(known("--qwen2vl", 827));
    }
}

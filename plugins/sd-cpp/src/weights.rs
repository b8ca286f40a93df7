//! The files that a model is made of, and the option that each goes with.
//!
//! One role, `text-encoder`, covers what the program takes by four options. Models before the ones with a language
//! model come with CLIP and T5 encoders, told apart by the names they are published under:
//!
//! | file name contains | option |
//! |---|---|
//! | `clip_l`, `clip-l` | `--clip_l` |
//! | `clip_g`, `clip-g` | `--clip_g` |
//! | `t5xxl`, `t5-xxl`, `t5_xxl`, `umt5` | `--t5xxl` |
//! | anything else | `--llm`, or `--qwen2vl` on a release that calls it so |
//!
//! So a model may have several files of that role, one per option. Otherwise the first file of a role counts, except LoRAs,
//! of which all do. A role that the program has no use for is refused: what the studio sent was meant to matter.

use studio_plugin::{Context, Download, Failure, File, ModelFile, ModelSource};

use crate::probe::Probe;

/// Suffixes that the program looks for in a LoRA folder.
const LORA_SUFFIXES: &[&str] = &[".safetensors", ".ckpt", ".gguf"];

/// Files of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Weights {
    /// In the order of the command line.
    pub(crate) parts: Vec<Part>,
    pub(crate) loras: Vec<Lora>,
    /// Names of files that do not count.
    pub(crate) surplus: Vec<String>,
}

/// A file and the option that it goes with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) option: &'static str,
    pub(crate) download: Download,
    pub(crate) filename: String,
}

/// A LoRA, as the program finds it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lora {
    /// Name in the folder that the program is shown.
    pub(crate) entry: String,
    /// What stands for it in the prompt.
    pub(crate) tag: String,
    pub(crate) download: Download,
}

/// Fetched files, in the order of [`Weights`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) parts: Vec<File>,
    pub(crate) loras: Vec<File>,
}

/// Options in the order of the command line, and the roles or names that lead to them.
const ORDER: &[&[&str]] = &[
    &["--diffusion-model", "--model"],
    &["--vae"],
    &["--llm", "--qwen2vl"],
    &["--llm_vision", "--qwen2vl_vision"],
    &["--clip_l"],
    &["--clip_g"],
    &["--t5xxl"],
    &["--clip_vision"],
];

impl Weights {
    /// Sorts the files of a model.
    pub(crate) fn sort(source: &ModelSource, probe: &Probe) -> Result<Self, Failure> {
        let mut weights = Self::default();
        let has_diffusion_model = source.file("diffusion-model").is_some();
        for file in &source.files {
            plain(&file.filename)?;
            if file.role == "lora" {
                let lora = Lora::make(file, source, &weights.loras)?;
                weights.loras.push(lora);
                continue;
            }
            let option = option_of(file, probe)?;
            let beside = option == "--model" && has_diffusion_model;
            if beside || weights.parts.iter().any(|part| part.option == option) {
                weights.surplus.push(file.filename.clone());
            } else {
                weights.parts.push(Part {
                    option,
                    download: file.download(),
                    filename: file.filename.clone(),
                });
            }
        }
        weights
            .parts
            .sort_by_key(|part| ORDER.iter().position(|names| names.contains(&part.option)));
        match weights.parts.first().map(|part| part.option) {
            Some("--diffusion-model" | "--model") => Ok(weights),
            _ => Err(Failure::permanent(
                "modelSource has no diffusion-model / model file; mend the model's entry in the studio",
            )),
        }
    }
}

fn option_of(file: &ModelFile, probe: &Probe) -> Result<&'static str, Failure> {
    let name = file.filename.to_lowercase();
    let named = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    Ok(match file.role.as_str() {
        "diffusion-model" => "--diffusion-model",
        "model" => "--model",
        "vae" => "--vae",
        "text-encoder" if named(&["clip_l", "clip-l"]) => "--clip_l",
        "text-encoder" if named(&["clip_g", "clip-g"]) => "--clip_g",
        "text-encoder" if named(&["t5xxl", "t5-xxl", "t5_xxl", "umt5"]) => "--t5xxl",
        "text-encoder" => probe.choose(&["--llm", "--qwen2vl"]),
        "text-encoder-vision" if named(&["clip_vision", "clip-vision"]) => "--clip_vision",
        "text-encoder-vision" => probe.choose(&["--llm_vision", "--qwen2vl_vision"]),
        role => {
            return Err(Failure::permanent(format!(
                "modelSource file {:?} has the role {role:?}, which sd-cpp has no use for; mend the model's entry in the studio, \
                 or install a plugin that knows the role",
                file.filename
            )));
        }
    })
}

/// A file name must be nothing but a name.
fn plain(name: &str) -> Result<(), Failure> {
    let is_plain =
        !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
    if is_plain {
        return Ok(());
    }
    Err(Failure::permanent(format!(
        "model filename must be a plain file name: {name:?}; mend the model's entry in the studio"
    )))
}

impl Lora {
    fn make(file: &ModelFile, source: &ModelSource, others: &[Self]) -> Result<Self, Failure> {
        let Some((stem, suffix)) = LORA_SUFFIXES.iter().find_map(|suffix| {
            file.filename
                .strip_suffix(suffix)
                .map(|stem| (stem, *suffix))
        }) else {
            return Err(Failure::permanent(format!(
                "LoRA {:?} ends in none of {}, the only files sd-cli looks for; mend the model's entry in the studio",
                file.filename,
                LORA_SUFFIXES.join(", ")
            )));
        };
        let weight = source.cli_defaults.lora_weight.unwrap_or(1.0);
        // A name that the tag cannot hold, or that two files share, is replaced.
        let fits = !stem.is_empty()
            && stem
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ' '));
        let shared = others
            .iter()
            .any(|other| other.tag.starts_with(&format!("<lora:{stem}:")));
        let stem = if fits && !shared {
            stem.to_owned()
        } else {
            format!("lora-{}", others.len() + 1)
        };
        Ok(Self {
            entry: format!("{stem}{suffix}"),
            tag: format!("<lora:{stem}:{weight}>"),
            download: file.download(),
        })
    }
}

/// Fetches the model's files.
pub(crate) async fn fetch(context: &Context, weights: &Weights) -> Result<Held, Failure> {
    let downloads = weights
        .parts
        .iter()
        .map(|part| &part.download)
        .chain(weights.loras.iter().map(|lora| &lora.download));
    let mut parts = context
        .fetch(downloads.cloned())
        .await
        .map_err(|failure| failure.while_doing("fetching the model"))?;
    let loras = parts.split_off(weights.parts.len().min(parts.len()));
    Ok(Held { parts, loras })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NEWEST, QWEN2VL, probe, source};

    fn sorted(files: &[(&str, &str)], help: &str) -> Result<Vec<(&'static str, String)>, Failure> {
        Weights::sort(&source(files, ""), &probe(help)).map(|weights| {
            weights
                .parts
                .into_iter()
                .map(|part| (part.option, part.filename))
                .collect()
        })
    }

    #[test]
    fn options_by_role_in_the_order_of_the_command_line() {
        let parts = sorted(
            &[
                ("text-encoder-vision", "mmproj.gguf"),
                ("text-encoder", "Qwen3.gguf"),
                ("vae", "ae.safetensors"),
                ("diffusion-model", "z.gguf"),
            ],
            NEWEST,
        )
        .unwrap();
        let options: Vec<_> = parts.iter().map(|(option, _)| *option).collect();
        assert_eq!(
            options,
            ["--diffusion-model", "--vae", "--llm", "--llm_vision"]
        );
    }

    #[test]
    fn encoders_by_their_published_names() {
        let parts = sorted(
            &[
                ("model", "sd3.safetensors"),
                ("text-encoder", "t5xxl_fp16.safetensors"),
                ("text-encoder", "CLIP_L.safetensors"),
                ("text-encoder", "clip_g.safetensors"),
                ("text-encoder-vision", "clip_vision_h.safetensors"),
            ],
            NEWEST,
        )
        .unwrap();
        let options: Vec<_> = parts.iter().map(|(option, _)| *option).collect();
        assert_eq!(
            options,
            [
                "--model",
                "--clip_l",
                "--clip_g",
                "--t5xxl",
                "--clip_vision"
            ]
        );
    }

    #[test]
    fn older_releases_call_the_language_model_otherwise() {
        let files = [
            ("model", "q.gguf"),
            ("text-encoder", "e.gguf"),
            ("text-encoder-vision", "v.gguf"),
        ];
        let options: Vec<_> = sorted(&files, QWEN2VL)
            .unwrap()
            .into_iter()
            .map(|(option, _)| option)
            .collect();
        assert_eq!(options, ["--model", "--qwen2vl", "--qwen2vl_vision"]);
    }

    #[test]
    fn a_whole_model_counts_only_without_its_parts_and_the_first_of_a_role_counts() {
        let weights = Weights::sort(
            &source(
                &[
                    ("model", "whole.gguf"),
                    ("vae", "a"),
                    ("vae", "b"),
                    ("diffusion-model", "part.gguf"),
                ],
                "",
            ),
            &probe(NEWEST),
        )
        .unwrap();
        let names: Vec<_> = weights
            .parts
            .iter()
            .map(|part| part.filename.as_str())
            .collect();
        assert_eq!(names, ["part.gguf", "a"]);
        assert_eq!(weights.surplus, ["whole.gguf", "b"]);
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_named() {
        for (files, named) in [
            (
                &[("vae", "a")][..],
                "modelSource has no diffusion-model / model file",
            ),
            (&[("model", "a"), ("labels", "names.txt")], "names.txt"),
            (&[("model", "a"), ("lora", "style.pt")], "style.pt"),
            (
                &[("model", "../a")],
                "model filename must be a plain file name: \"../a\"",
            ),
            (&[("model", "..")], "plain file name"),
            (&[("model", "a"), ("lora", "x/y.gguf")], "plain file name"),
        ] {
            let failure = sorted(files, NEWEST).unwrap_err();
            assert!(failure.message.contains(named), "{}", failure.message);
            assert!(!failure.retryable);
        }
    }

    #[test]
    fn loras_keep_their_order_weight_and_a_name_the_tag_can_hold() {
        let files = [
            ("model", "m"),
            ("lora", "ink.safetensors"),
            ("lora", "ink.gguf"),
            ("lora", "a:b>.ckpt"),
        ];
        let weights =
            Weights::sort(&source(&files, r#""loraWeight":0.8"#), &probe(NEWEST)).unwrap();
        let entries: Vec<_> = weights
            .loras
            .iter()
            .map(|lora| (lora.entry.as_str(), lora.tag.as_str()))
            .collect();
        assert_eq!(
            entries,
            [
                ("ink.safetensors", "<lora:ink:0.8>"),
                ("lora-2.gguf", "<lora:lora-2:0.8>"),
                ("lora-3.ckpt", "<lora:lora-3:0.8>"),
            ]
        );
        let weights = Weights::sort(&source(&files, ""), &probe(NEWEST)).unwrap();
        assert_eq!(weights.loras.first().unwrap().tag, "<lora:ink:1>");
    }
}

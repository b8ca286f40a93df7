//! A task from a person's words, for the one public model that can be named without a studio.

use studio_plugin::json::{Value, json};
use studio_plugin::{Ask, Composed, Failure};

/// Names by which the model is known.
const Z_IMAGE_TURBO: &[&str] = &["z-image-turbo", "z-image", "sd-cpp:z-image-turbo"];

/// Makes the task; the model source is the one given, else that of a model known by name.
pub(crate) fn compose(mut ask: Ask) -> Result<Composed, Failure> {
    if ask.model_source().is_none() {
        let Some(source) = ask.model().and_then(known) else {
            let named = match ask.model() {
                Some(model) => format!("no files are known for the model {model:?}"),
                None => "no model was named".to_owned(),
            };
            return Err(Failure::permanent(format!(
                "{named}; pass --model z-image-turbo (downloads about 7 GB), a modelSource of its own among the options, \
                 or a whole offer with --offer"
            )));
        };
        ask.options.insert("modelSource".to_owned(), source);
    }
    Ok(ask.compose("prompt", "sd-cpp"))
}

fn known(model: &str) -> Option<Value> {
    let model = model.to_ascii_lowercase();
    Z_IMAGE_TURBO.contains(&model.as_str()).then(z_image_turbo)
}

/// Z-Image-Turbo, four-bit, with its text encoder and VAE.
fn z_image_turbo() -> Value {
    const HUB: &str = "https://huggingface.co";
    let file = |role: &str, repository: &str, path: &str, bytes: u64| {
        let filename = path.rsplit('/').next().unwrap_or(path);
        let url = format!("{HUB}/{repository}/resolve/main/{path}");
        json!({ "role": role, "url": url, "filename": filename, "approxBytes": bytes })
    };
    json!({
        "engine": "sd-cpp",
        "files": [
            file("diffusion-model", "leejet/Z-Image-Turbo-GGUF", "z_image_turbo-Q4_K.gguf", 3_860_000_000),
            file("text-encoder", "unsloth/Qwen3-4B-Instruct-2507-GGUF", "Qwen3-4B-Instruct-2507-Q4_K_M.gguf", 2_500_000_000),
            file("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/ae.safetensors", 335_000_000),
        ],
        "cliDefaults": { "cfgScale": 1.0, "steps": 8, "width": 1024, "height": 1024, "samplingMethod": "euler" },
    })
}

#[cfg(test)]
mod tests {
    use studio_plugin::ModelSource;
    use studio_plugin::json::Map;

    use super::*;

    fn ask(options: Value) -> Ask {
        let options = options.as_object().cloned().unwrap_or_else(Map::new);
        Ask {
            kind: "image".to_owned(),
            text: "a koi pond".to_owned(),
            options,
        }
    }

    #[test]
    fn a_known_model_by_its_name() {
        let composed = compose(ask(json!({ "model": "Z-Image-Turbo", "width": 640 }))).unwrap();
        assert_eq!(
            composed.task,
            json!({ "kind": "image", "prompt": "a koi pond", "width": 640 })
        );
        let source = ModelSource::parse(&composed.model_source.to_string()).unwrap();
        let names: Vec<_> = source
            .files
            .iter()
            .map(|file| file.filename.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "z_image_turbo-Q4_K.gguf",
                "Qwen3-4B-Instruct-2507-Q4_K_M.gguf",
                "ae.safetensors"
            ]
        );
        assert_eq!(
            (source.cli_defaults.steps, source.cli_defaults.width),
            (8, 1024)
        );
    }

    #[test]
    fn a_source_given_is_taken() {
        let given = json!({ "engine": "sd-cpp", "files": [], "cliDefaults": {} });
        let composed = compose(ask(json!({ "model": "mine", "modelSource": given }))).unwrap();
        assert_eq!(composed.model_source, given);
    }

    #[test]
    fn otherwise_it_is_said_what_to_pass() {
        for options in [json!({ "model": "mine" }), json!({})] {
            let failure = compose(ask(options)).unwrap_err();
            assert!(
                failure.message.contains("modelSource")
                    && failure.message.contains("z-image-turbo")
            );
            assert!(!failure.retryable);
        }
    }
}

//! What a job's model is made of, typed: `modelSource` of the offer.

use serde_json::{Map, Value};

use crate::{Download, Failure, Fields};

/// The engine that a model needs, its files and its own defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSource {
    /// Wire name of the engine; offers go to no other.
    pub engine: String,
    /// In the offer's order.
    pub files: Vec<ModelFile>,
    /// What to use where the task says nothing.
    pub cli_defaults: CliDefaults,
    /// Everything else.
    pub extra: Map<String, Value>,
}

/// One file of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFile {
    /// What it is for: `vae`, `text-encoder`, a word this kit has not heard of.
    pub role: String,
    /// Where it is downloaded.
    pub url: String,
    /// Bare name it is known by.
    pub filename: String,
    /// In bytes.
    pub approx_bytes: Option<u64>,
    /// Lower-case hex, when the studio knows it.
    pub sha256: Option<String>,
    /// Everything else.
    pub extra: Map<String, Value>,
}

/// A model's own defaults. Zero numbers mean "none", as absent ones do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CliDefaults {
    /// How closely to follow a prompt.
    pub cfg_scale: f32,
    /// Steps that the model was made for.
    pub steps: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Name of a sampler.
    pub sampling_method: Option<String>,
    /// Shift of the schedule.
    pub flow_shift: Option<f32>,
    /// Edit models that condition on a zero time step.
    pub zero_cond_t: Option<bool>,
    /// Keep weights in main memory.
    pub offload_to_cpu: Option<bool>,
    /// Tokens that a language model keeps in sight.
    pub context_size: Option<u32>,
    /// Template variables.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Map weights instead of reading them.
    pub mmap: Option<bool>,
    /// Device memory to use at most.
    pub max_vram_gib: Option<f32>,
    /// Strength of additional weights.
    pub lora_weight: Option<f32>,
    /// Everything else: `vision`, `pipeline`, `resolution` and whatever comes.
    pub extra: Map<String, Value>,
}

impl ModelSource {
    /// Reads the object.
    ///
    /// # Errors
    ///
    /// No object, no engine, or a field of another type; the failure names it.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.trim().is_empty() || text.trim() == "null" {
            return Err(Failure::permanent(
                "the offer has no modelSource; queue the job again with a model that the studio has a source for",
            ));
        }
        let mut fields = Fields::parse("modelSource", text)?;
        let files: Vec<Value> = fields.given("files")?.unwrap_or_default();
        let defaults: Option<Map<String, Value>> = fields.given("cliDefaults")?;
        Ok(Self {
            engine: fields.required("engine")?,
            files: files
                .into_iter()
                .enumerate()
                .map(|(index, file)| ModelFile::read(index, file))
                .collect::<Result<_, _>>()?,
            cli_defaults: CliDefaults::read(defaults.unwrap_or_default())?,
            extra: fields.rest(),
        })
    }

    /// The first file of a role; others of that role do not count.
    pub fn file(&self, role: &str) -> Option<&ModelFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// A download for each file, in their order, kept in the model cache.
    pub fn downloads(&self) -> Vec<Download> {
        self.files.iter().map(ModelFile::download).collect()
    }
}

impl ModelFile {
    fn read(index: usize, file: Value) -> Result<Self, Failure> {
        let Value::Object(map) = file else {
            return Err(Failure::permanent(format!(
                "modelSource.files[{index}] must be an object with role, url and filename"
            )));
        };
        let mut fields = Fields::new(&format!("modelSource.files[{index}]"), map);
        let sha256: Option<String> = fields.optional("sha256")?;
        Ok(Self {
            role: fields.required("role")?,
            url: fields.required("url")?,
            filename: fields.required("filename")?,
            approx_bytes: fields.optional("approxBytes")?,
            sha256: sha256
                .map(|digest| digest.trim().to_ascii_lowercase())
                .filter(|digest| !digest.is_empty()),
            extra: fields.rest(),
        })
    }

    /// Its download, kept in the model cache under its name.
    pub fn download(&self) -> Download {
        Download {
            url: self.url.clone(),
            cache_as: Some(self.filename.clone()),
            sha256: self.sha256.clone(),
            approx_bytes: self.approx_bytes,
            max_bytes: None,
        }
    }
}

impl CliDefaults {
    fn read(map: Map<String, Value>) -> Result<Self, Failure> {
        let mut fields = Fields::new("modelSource.cliDefaults", map);
        Ok(Self {
            cfg_scale: fields.given("cfgScale")?.unwrap_or_default(),
            steps: fields.given("steps")?.unwrap_or_default(),
            width: fields.given("width")?.unwrap_or_default(),
            height: fields.given("height")?.unwrap_or_default(),
            sampling_method: fields.optional("samplingMethod")?,
            flow_shift: fields.optional("flowShift")?,
            zero_cond_t: fields.optional("zeroCondT")?,
            offload_to_cpu: fields.optional("offloadToCpu")?,
            context_size: fields.optional("contextSize")?,
            chat_template_kwargs: fields.optional("chatTemplateKwargs")?,
            mmap: fields.optional("mmap")?,
            max_vram_gib: fields.optional("maxVramGib")?,
            lora_weight: fields.optional("loraWeight")?,
            extra: fields.rest(),
        })
    }
}

//! The task kinds that studios offer today, typed.
//!
//! Fields that a type does not know are kept in `extra`. Where the difference between "absent" and
//! "asked for" matters to an engine (sizes, steps), the field is an `Option` that is `None` only
//! when absent: the wire's own default for it is then named in its comment.

use serde_json::{Map, Value};

use crate::{Failure, Fields};

/// A task that an engine takes.
pub trait Task: Sized {
    /// Reads the task of a job of this kind.
    ///
    /// # Errors
    ///
    /// `Ok(None)` when the kind is not one that it takes; a failure that names the field when a
    /// field is missing or of another type.
    fn read(kind: &str, fields: Fields) -> Result<Option<Self>, Failure>;

    /// The text that people know the job by: prompt, last message, words to speak.
    fn subject(&self) -> String;
}

/// A picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTask {
    /// What it shows.
    pub prompt: String,
    /// What it must not show.
    pub negative_prompt: Option<String>,
    /// A picture to start from.
    pub init_image_url: Option<String>,
    /// White where the picture may change; black where it stays.
    pub mask_url: Option<String>,
    /// A picture to edit by instruction; goes before the one to start from.
    pub ref_image_url: Option<String>,
    /// How far to go from the picture it starts from, 0 to 1.
    pub denoise: Option<f32>,
    /// How closely to follow the prompt.
    pub cfg_scale: Option<f32>,
    /// Name of a sampler.
    pub sampling_method: Option<String>,
    /// Pixels; 0 is the model's own, absent reads as 512 on the wire.
    pub width: Option<u32>,
    /// Pixels; 0 is the model's own, absent reads as 512 on the wire.
    pub height: Option<u32>,
    /// 0 is the model's own, absent reads as 20 on the wire.
    pub steps: Option<u32>,
    /// Where the noise starts.
    pub seed: Option<u64>,
    /// File extension wanted; `webp` when absent.
    pub ext: String,
    /// Everything else.
    pub extra: Map<String, Value>,
}

impl Task for ImageTask {
    fn read(kind: &str, mut fields: Fields) -> Result<Option<Self>, Failure> {
        if kind != "image" {
            return Ok(None);
        }
        Ok(Some(Self {
            prompt: fields.required("prompt")?,
            negative_prompt: fields.optional("negativePrompt")?,
            init_image_url: fields.optional("initImageUrl")?,
            mask_url: fields.optional("maskUrl")?,
            ref_image_url: fields.optional("refImageUrl")?,
            denoise: fields.optional("denoise")?,
            cfg_scale: fields.optional("cfgScale")?,
            sampling_method: fields.optional("samplingMethod")?,
            width: fields.given("width")?,
            height: fields.given("height")?,
            steps: fields.given("steps")?,
            seed: fields.optional("seed")?,
            ext: ext(&mut fields, "webp")?,
            extra: rest(fields),
        }))
    }

    fn subject(&self) -> String {
        self.prompt.clone()
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `user`, `assistant`, `system`, `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Everything else.
    pub extra: Map<String, Value>,
}

/// A conversation to go on with.
#[derive(Clone, Debug, PartialEq)]
pub struct LlmTask {
    /// So far; may be empty.
    pub messages: Vec<Message>,
    /// Put before the conversation.
    pub system: Option<String>,
    /// Longest answer; absent reads as 512 on the wire.
    pub max_tokens: Option<u32>,
    /// Absent reads as 0.7 on the wire.
    pub temperature: Option<f32>,
    /// Share of the likeliest words to choose from.
    pub top_p: Option<f32>,
    /// Texts that end the answer.
    pub stop: Option<Vec<String>>,
    /// What the answer must look like.
    pub json_schema: Option<Value>,
    /// How much to think.
    pub reasoning: Option<String>,
    /// Template variables, before the model's own.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Pictures read with the last message of the user: URLs or `data:` URLs.
    pub images: Vec<String>,
    /// Everything else.
    pub extra: Map<String, Value>,
}

impl Task for LlmTask {
    fn read(kind: &str, mut fields: Fields) -> Result<Option<Self>, Failure> {
        if kind != "llm" {
            return Ok(None);
        }
        let messages: Vec<Value> = fields.required("messages")?;
        Ok(Some(Self {
            messages: messages
                .into_iter()
                .enumerate()
                .map(|(index, message)| Message::read(index, message))
                .collect::<Result<_, _>>()?,
            system: fields.optional("system")?,
            max_tokens: fields.given("maxTokens")?,
            temperature: fields.given("temperature")?,
            top_p: fields.optional("topP")?,
            stop: fields.optional("stop")?,
            json_schema: fields.optional("jsonSchema")?,
            reasoning: fields.optional("reasoning")?,
            chat_template_kwargs: fields.optional("chatTemplateKwargs")?,
            images: fields.optional("images")?.unwrap_or_default(),
            extra: rest(fields),
        }))
    }

    fn subject(&self) -> String {
        self.messages
            .last()
            .map(|message| message.content.clone())
            .unwrap_or_default()
    }
}

impl Message {
    fn read(index: usize, message: Value) -> Result<Self, Failure> {
        let Value::Object(map) = message else {
            return Err(Failure::permanent(format!(
                "task.messages[{index}] must be an object with role and content"
            )));
        };
        let mut fields = Fields::new(&format!("task.messages[{index}]"), map);
        Ok(Self {
            role: fields.required("role")?,
            content: fields.required("content")?,
            extra: fields.rest(),
        })
    }
}

/// A recording to write down.
#[derive(Clone, Debug, PartialEq)]
pub struct SttTask {
    /// Where the recording is.
    pub input_url: String,
    /// Spoken language, when known.
    pub language: Option<String>,
    /// Into English.
    pub translate: Option<bool>,
    /// Words that help to recognise names.
    pub prompt: Option<String>,
    /// Leave out where nobody speaks.
    pub vad: Option<bool>,
    /// `segment` or `word`.
    pub timestamps: Option<String>,
    /// Everything else.
    pub extra: Map<String, Value>,
}

impl Task for SttTask {
    fn read(kind: &str, mut fields: Fields) -> Result<Option<Self>, Failure> {
        if kind != "audio_stt" {
            return Ok(None);
        }
        Ok(Some(Self {
            input_url: fields.required("inputUrl")?,
            language: fields.optional("language")?,
            translate: fields.optional("translate")?,
            prompt: fields.optional("prompt")?,
            vad: fields.optional("vad")?,
            timestamps: fields.optional("timestamps")?,
            extra: rest(fields),
        }))
    }

    fn subject(&self) -> String {
        self.input_url.clone()
    }
}

/// Words to speak.
#[derive(Clone, Debug, PartialEq)]
pub struct TtsTask {
    /// The words.
    pub text: String,
    /// Name of a voice; `default` when absent.
    pub voice: String,
    /// 1 is the voice's own.
    pub speed: Option<f32>,
    /// Of the text.
    pub language: Option<String>,
    /// File extension wanted; `wav` when absent.
    pub ext: String,
    /// Everything else.
    pub extra: Map<String, Value>,
}

impl Task for TtsTask {
    fn read(kind: &str, mut fields: Fields) -> Result<Option<Self>, Failure> {
        if kind != "audio_tts" {
            return Ok(None);
        }
        Ok(Some(Self {
            text: fields.required("text")?,
            voice: fields
                .given("voice")?
                .unwrap_or_else(|| "default".to_owned()),
            speed: fields.optional("speed")?,
            language: fields.optional("language")?,
            ext: ext(&mut fields, "wav")?,
            extra: rest(fields),
        }))
    }

    fn subject(&self) -> String {
        self.text.clone()
    }
}

/// A clip.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoTask {
    /// What it shows.
    pub prompt: String,
    /// What it must not show.
    pub negative_prompt: Option<String>,
    /// Its first frame.
    pub init_image_url: Option<String>,
    /// How long; 2 when absent.
    pub seconds: f32,
    /// Frames per second.
    pub fps: Option<u32>,
    /// Pixels; 512 when absent.
    pub width: u32,
    /// Pixels; 512 when absent.
    pub height: u32,
    /// File extension wanted; `mp4` when absent.
    pub ext: String,
    /// Everything else.
    pub extra: Map<String, Value>,
}

impl Task for VideoTask {
    fn read(kind: &str, mut fields: Fields) -> Result<Option<Self>, Failure> {
        if kind != "video" {
            return Ok(None);
        }
        Ok(Some(Self {
            prompt: fields.required("prompt")?,
            negative_prompt: fields.optional("negativePrompt")?,
            init_image_url: fields.optional("initImageUrl")?,
            seconds: fields.given("seconds")?.unwrap_or(2.0),
            fps: fields.optional("fps")?,
            width: fields.given("width")?.unwrap_or(512),
            height: fields.given("height")?.unwrap_or(512),
            ext: ext(&mut fields, "mp4")?,
            extra: rest(fields),
        }))
    }

    fn subject(&self) -> String {
        self.prompt.clone()
    }
}

/// Whichever of the five kinds a job is of, for an engine that serves them all.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyTask {
    /// `image`
    Image(ImageTask),
    /// `llm`
    Llm(LlmTask),
    /// `audio_stt`
    Stt(SttTask),
    /// `audio_tts`
    Tts(TtsTask),
    /// `video`
    Video(VideoTask),
}

impl Task for AnyTask {
    fn read(kind: &str, fields: Fields) -> Result<Option<Self>, Failure> {
        Ok(match kind {
            "image" => ImageTask::read(kind, fields)?.map(Self::Image),
            "llm" => LlmTask::read(kind, fields)?.map(Self::Llm),
            "audio_stt" => SttTask::read(kind, fields)?.map(Self::Stt),
            "audio_tts" => TtsTask::read(kind, fields)?.map(Self::Tts),
            "video" => VideoTask::read(kind, fields)?.map(Self::Video),
            _ => None,
        })
    }

    fn subject(&self) -> String {
        match self {
            Self::Image(task) => task.subject(),
            Self::Llm(task) => task.subject(),
            Self::Stt(task) => task.subject(),
            Self::Tts(task) => task.subject(),
            Self::Video(task) => task.subject(),
        }
    }
}

/// A task of any kind, nothing known of it: for kinds that this kit has not heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTask {
    /// The job's kind.
    pub kind: String,
    /// The whole object, without `kind`.
    pub fields: Map<String, Value>,
}

impl OpenTask {
    /// A text field; empty when it is absent or something else.
    pub fn text(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

impl Task for OpenTask {
    fn read(kind: &str, fields: Fields) -> Result<Option<Self>, Failure> {
        Ok(Some(Self {
            kind: kind.to_owned(),
            fields: rest(fields),
        }))
    }

    fn subject(&self) -> String {
        ["prompt", "text"]
            .into_iter()
            .map(|name| self.text(name))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
            .to_owned()
    }
}

/// What an engine does not know, without the tag that the job's kind says already.
fn rest(fields: Fields) -> Map<String, Value> {
    let mut rest = fields.rest();
    rest.shift_remove("kind");
    rest
}

fn ext(fields: &mut Fields, default: &str) -> Result<String, Failure> {
    Ok(fields.given("ext")?.unwrap_or_else(|| default.to_owned()))
}

//! The same picture through `sd-server`, which keeps the weights in memory from job to job.
//!
//! What a request says is made from the very options that `sd-cli` would get, one by one: those of the model start the
//! server, those of the picture become fields of its native request. An option without a place there sends the job through
//! `sd-cli`, and so does everything in which the two are known to differ (see [`launch`]). The server takes what it does not
//! understand for absent and says nothing, so nothing doubtful is ever sent to it.
//!
//! Only the native asynchronous routes are used. The others are compatible with other programs: one of them reads settings
//! out of the prompt, and all of them draw without a picture that they cannot decode.

use studio_plugin::json::{self, Map, Value, json};
use studio_plugin::{
    Argument, BackendStatus, Call, Context, Effect, Header, Outcome, Part, Piece, RawJob, Repeat,
    Request, Response, Server, Setting,
};

use crate::answer::{self, Picture};
use crate::argv::{self, Held, Opt, Slot};
use crate::choices::{SAMPLER, USUAL_SAMPLER};
use crate::plan::Plan;
use crate::probe::Probe;

/// Name of the backend and of its program.
pub(crate) const PROGRAM: &str = "sd-server";

/// Prefix of the native routes.
const ROUTES: &str = "/sdcpp/v1/";

/// Most steps that the server draws; more are quietly cut to this number.
const MOST_STEPS: u32 = 100;

/// Most pixels. The picture comes in base64, 4 bytes a pixel at worst, and has to fit the plugin's memory twice.
const MOST_PIXELS: u64 = 2048 * 1536;

/// Quality of WebP and JPEG that `sd-cli` has built in; the server's own default is 100.
const QUALITY: u32 = 90;

/// Milliseconds until the server listens. It reads the headers of the weights before; the weights follow with the first job.
const START_MS: u32 = 180_000;

/// Milliseconds for handing over a job, pictures included. The server answers at once; a busy machine may not.
const SUBMIT_MS: u64 = 120_000;

/// Milliseconds between two questions whether the picture is done. Shorter asks a busy machine for nothing; longer keeps
/// a picture that takes half a second waiting.
const ASK_EVERY_MS: u32 = 100;

/// How the server is started and asked.
pub(crate) fn served() -> Server {
    let listen = ["-l", "{host}", "--listen-port", "{port}"];
    Server {
        listen: listen.map(str::to_owned).to_vec(),
        ready: format!("{ROUTES}capabilities"),
        // It draws one at a time, whatever it is asked.
        parallel: 1,
        start_ms: START_MS,
        routes: vec![ROUTES.to_owned()],
    }
}

/// A job that the server can do as `sd-cli` would.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch<'a> {
    /// Options that the server is started with.
    context: Vec<&'a Opt>,
    /// Fields of the request, but for pictures.
    fields: Map<String, Value>,
}

/// Why the server is not used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Without {
    /// There is none, or the operator wants none: nothing to tell.
    Absent,
    /// It is there, and this job is not for it.
    Because(String),
}

/// Whether the server does this job as `sd-cli` would.
pub(crate) fn launch<'a>(
    job: &RawJob,
    plan: &Plan,
    options: &'a [Opt],
    cli: &Probe,
) -> Result<Launch<'a>, Without> {
    let found = |backend: &&BackendStatus| backend.name == PROGRAM;
    let backend = job.backends.iter().find(found).filter(|_| plan.use_server);
    let probe = Probe::read(backend.ok_or(Without::Absent)?);
    let because = |why: String| Err(Without::Because(why));
    if !probe.is_of_the_release_of(cli) {
        return because(format!(
            "it is of another release than sd-cli: {} and {}",
            probe.name(),
            cli.name()
        ));
    }
    if !probe.has_native_routes() {
        return because("it is from before its native routes".to_owned());
    }
    if plan.steps > MOST_STEPS {
        return because(format!("it draws at most {MOST_STEPS} steps"));
    }
    if u64::from(plan.width) * u64::from(plan.height) > MOST_PIXELS {
        return because(format!(
            "{}x{} is too large to be handed over in base64",
            plan.width, plan.height
        ));
    }
    if let Some(sampler) = &plan.sampler
        && !probe.takes(SAMPLER, sampler, USUAL_SAMPLER)
    {
        return because(format!("it does not list the sampler {sampler}"));
    }
    let mut launch = Launch {
        context: Vec::new(),
        fields: picture_fields(plan),
    };
    for option in options {
        match place(option.name) {
            Place::Launch | Place::Default(_) if !probe.knows(option.name) => {
                return because(format!("it does not know {}", option.name));
            }
            Place::Launch => launch.context.push(option),
            Place::Default(path) => {
                launch.context.push(option);
                set(&mut launch.fields, path, number(option)?);
            }
            Place::Number(path) => set(&mut launch.fields, path, number(option)?),
            Place::Word(path) => set(&mut launch.fields, path, text(option).into()),
            Place::Elsewhere => {}
            Place::Nowhere(why) => return because(why.to_owned()),
        }
    }
    if !plan.weights.loras.is_empty() {
        return because("it takes LoRAs by path, which no plugin knows".to_owned());
    }
    Ok(launch)
}

/// Where an option of `sd-cli` goes.
enum Place {
    /// The server is started with it.
    Launch,
    /// The server is started with it, for releases that read it then, and the request has it as well.
    Default(&'static [&'static str]),
    /// A field of the request that is a number.
    Number(&'static [&'static str]),
    /// A field of the request that is a text.
    Word(&'static [&'static str]),
    /// It is put in from the plan: texts, pictures, the output's format.
    Elsewhere,
    /// The server has no place for it, or does otherwise with it.
    Nowhere(&'static str),
}

fn place(option: &str) -> Place {
    match option {
        "--diffusion-model"
        | "--model"
        | "--vae"
        | "--llm"
        | "--llm_vision"
        | "--qwen2vl"
        | "--qwen2vl_vision"
        | "--clip_l"
        | "--clip_g"
        | "--t5xxl"
        | "--clip_vision"
        | "--lora-model-dir"
        | "--model-args"
        | "--qwen-image-zero-cond-t"
        | "--offload-to-cpu"
        | "--mmap"
        | "--max-vram"
        | "--diffusion-fa" => Place::Launch,
        "--flow-shift" => Place::Default(&["sample_params", "flow_shift"]),
        "--cfg-scale" => Place::Number(&["sample_params", "guidance", "txt_cfg"]),
        "--steps" => Place::Number(&["sample_params", "sample_steps"]),
        "--sampling-method" => Place::Word(&["sample_params", "sample_method"]),
        "-W" => Place::Number(&["width"]),
        "-H" => Place::Number(&["height"]),
        "--seed" => Place::Number(&["seed"]),
        "--strength" => Place::Number(&["strength"]),
        "-p"
        | "--prompt-file"
        | "--negative-prompt"
        | "--negative-prompt-file"
        | "--init-img"
        | "--mask"
        | "-o"
        | "--disable-image-metadata" => Place::Elsewhere,
        "-r" => Place::Nowhere("it crops reference pictures, which sd-cli does not"),
        _ => Place::Nowhere("the job needs an option that its requests have no field for"),
    }
}

/// Fields that no option stands for word by word.
fn picture_fields(plan: &Plan) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("prompt", plan.prompt.text.words().into());
    if let Some(negative) = &plan.prompt.negative {
        put("negative_prompt", negative.words().into());
    }
    put("batch_count", 1.into());
    put("embed_image_metadata", false.into());
    let format = if plan.ext == "jpg" { "jpeg" } else { plan.ext };
    put("output_format", format.into());
    if format != "png" {
        put("output_compression", QUALITY.into());
    }
    fields
}

fn text(option: &Opt) -> &str {
    match &option.value {
        Slot::Text(text) => text,
        _ => "",
    }
}

/// A number as the command line has it, digit for digit. What is no number would be ignored without a word.
fn number(option: &Opt) -> Result<Value, Without> {
    json::from_str::<json::Number>(text(option))
        .map(Value::Number)
        .map_err(|_| Without::Because(format!("{} is no number that JSON knows", option.name)))
}

fn set(fields: &mut Map<String, Value>, path: &[&str], value: Value) {
    let Some((last, folders)) = path.split_last() else {
        return;
    };
    let mut at = fields;
    for folder in folders {
        let inner = at.entry(*folder).or_insert_with(|| json!({}));
        let Value::Object(inner) = inner else { return };
        at = inner;
    }
    at.insert((*last).to_owned(), value);
}

/// How the server did not draw.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Gone {
    /// Something else than the picture took its time, or nothing at all did: the command may draw it.
    GaveUp(String),
    /// All the time of the job is gone, in milliseconds: the command would take as long once more.
    TooLong(u64),
}

impl From<String> for Gone {
    fn from(why: String) -> Self {
        Self::GaveUp(why)
    }
}

/// Draws; why it did not, where it did not.
pub(crate) async fn draw(
    context: &Context,
    launch: &Launch<'_>,
    plan: &Plan,
    held: &Held,
) -> Result<Picture, Gone> {
    let make = || call(launch, plan, held, submit(launch, held));
    // Late with taking the job is nothing drawn yet, and most of the time left.
    let taken = perform(context, make).await;
    let id = answer::submitted(&taken.map_err(|unanswered| unanswered.why)?)?;
    let make = || Call {
        on_cancel: Some(cancel(&id)),
        ..call(launch, plan, held, ask(&id, plan))
    };
    let done = perform(context, make).await?;
    Ok(answer::finished(context, done, plan.ext).await?)
}

/// Why a call has no answer.
struct Unanswered {
    why: String,
    /// The milliseconds that it had, where they passed.
    after: Option<u64>,
}

impl From<Unanswered> for Gone {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered.after {
            Some(given) => Self::TooLong(given),
            None => Self::GaveUp(unanswered.why),
        }
    }
}

async fn perform(context: &Context, make: impl FnOnce() -> Call) -> Result<Response, Unanswered> {
    let (why, after) = match context.perform(|| Effect::Call(make())).await {
        Ok(Outcome::Responded(response)) => return Ok(response),
        Ok(Outcome::TimedOut((given, failure))) => (failure.message, Some(given)),
        Ok(_) => (
            "the host answered a call with something else".to_owned(),
            None,
        ),
        Err(failure) => (failure.message, None),
    };
    Err(Unanswered { why, after })
}

fn call(launch: &Launch<'_>, plan: &Plan, held: &Held, request: Request) -> Call {
    let argument = |option: &&Opt| match option.name {
        // The server reads the whole folder at each request; an empty name is the directory that it runs in.
        "--lora-model-dir" => Argument::Setting(Setting {
            name: option.name.to_owned(),
            value: vec![Piece::Directory(Vec::new())],
            equals: false,
        }),
        _ => argv::argument(option, plan, held),
    };
    Call {
        backend: PROGRAM.to_owned(),
        arguments: launch.context.iter().map(argument).collect(),
        environment: argv::environment(),
        request,
        on_cancel: None,
    }
}

fn submit(launch: &Launch<'_>, held: &Held) -> Request {
    let fields = Value::Object(launch.fields.clone()).to_string();
    // Pictures follow as further fields; what closes the object comes behind them.
    let mut body = vec![Part::from(fields.strip_suffix('}').unwrap_or(&fields))];
    let pictures = [
        ("init_image", &held.inputs.picture),
        ("mask_image", &held.inputs.mask),
    ];
    for (name, shown) in pictures {
        if let Some(shown) = shown {
            body.push(Part::from(format!(",\"{name}\":\"")));
            body.push(Part::Base64(shown.file.id));
            body.push(Part::from("\""));
        }
    }
    body.push(Part::from("}"));
    let json = Header::Text("application/json".to_owned());
    Request {
        headers: vec![("content-type".to_owned(), json)],
        body,
        timeout_ms: Some(SUBMIT_MS),
        ..request("POST", format!("{ROUTES}img_gen"))
    }
}

fn ask(id: &str, plan: &Plan) -> Request {
    Request {
        timeout_ms: Some(plan.timeout_ms()),
        max_bytes: Some(answer::MOST_BYTES),
        inline_bytes: answer::INLINE_BYTES,
        repeat: Some(Repeat {
            every_ms: ASK_EVERY_MS,
            pointer: "/status".to_owned(),
            pending: ["queued", "generating"].map(str::to_owned).to_vec(),
        }),
        ..request("GET", format!("{ROUTES}jobs/{id}"))
    }
}

/// A job that is drawn already cannot be stopped: the server answers 409, and the host ends it.
fn cancel(id: &str) -> Request {
    request("POST", format!("{ROUTES}jobs/{id}/cancel"))
}

fn request(method: &str, target: String) -> Request {
    Request {
        method: method.to_owned(),
        target,
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: Some(SUBMIT_MS),
        max_bytes: Some(64 * 1024),
        inline_bytes: 64 * 1024,
        repeat: None,
    }
}

#[cfg(test)]
mod tests;

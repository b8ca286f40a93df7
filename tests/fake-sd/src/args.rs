//! Reading the command line as strictly as the real program does.

use crate::flags::{Program, Value, find};
use crate::help::known_words;
use crate::release::Release;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    pub(crate) help: bool,
    /// Long names and values, in order; a repeated one counts by its last value.
    settings: Vec<(&'static str, String)>,
}

/// Why a command line is refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    /// Said on standard error, then the help on standard output, exit 1.
    WithHelp(String),
    /// Said on standard error only, exit 1.
    Plain(String),
    /// The real program does not catch this: it aborts with the text.
    Abort(&'static str),
}

impl Request {
    /// Last value of an option.
    pub(crate) fn get(&self, long: &str) -> Option<&str> {
        self.settings
            .iter()
            .rev()
            .find(|(name, _)| *name == long)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of an option, in order.
    pub(crate) fn all<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        self.settings
            .iter()
            .filter(move |(name, _)| *name == long)
            .map(|(_, value)| value.as_str())
    }

    /// Whether an option without a value was given.
    pub(crate) fn has(&self, long: &str) -> bool {
        self.get(long).is_some()
    }

    /// A number, or what the real program takes without it.
    pub(crate) fn float(&self, long: &str, default: f64) -> f64 {
        float(self, long, default)
    }

    /// A whole number, or what the real program takes without it.
    pub(crate) fn int(&self, long: &str, default: i64) -> i64 {
        self.get(long)
            .and_then(|value| leading_int(value).ok())
            .unwrap_or(default)
    }

    /// Steps, by either name of the option; a release has one of them.
    pub(crate) fn steps(&self, default: i64) -> i64 {
        let long = ["--steps", "--sampling-steps"];
        let given = long.into_iter().find(|long| self.has(long));
        given.map_or(default, |long| self.int(long, default))
    }
}

/// Reads the arguments after the program's name.
pub(crate) fn parse(
    arguments: &[String],
    release: Release,
    program: Program,
) -> Result<Request, Refusal> {
    let mut request = Request::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(flag) = find(argument, release, program) else {
            return Err(Refusal::WithHelp(format!("unknown argument: {argument}")));
        };
        if flag.long == "--help" {
            request.help = true;
            return Ok(request);
        }
        let value = match flag.value {
            Value::None => String::new(),
            _ => arguments.next().cloned().ok_or_else(|| {
                Refusal::WithHelp(format!("invalid parameter for argument: {argument}"))
            })?,
        };
        check_value(flag.long, flag.value, &value, release)?;
        request.settings.push((flag.long, value));
    }
    check_whole(&request, release, program)?;
    Ok(request)
}

fn check_value(long: &str, kind: Value, value: &str, release: Release) -> Result<(), Refusal> {
    match kind {
        Value::None | Value::Text => Ok(()),
        Value::Int => leading_int(value).map(drop),
        Value::Float => leading_float(value).map(drop),
        Value::Word(words) if known_words(words, release).contains(&value) => Ok(()),
        Value::Word(words) if long == "--mode" => Err(Refusal::Plain(format!(
            "error: invalid mode {value}, must be one of [{}]",
            known_words(words, release).join(", ")
        ))),
        Value::Word(_) => Err(Refusal::WithHelp(format!(
            "invalid value for argument: {long}: '{value}'"
        ))),
    }
}

fn check_whole(request: &Request, release: Release, program: Program) -> Result<(), Refusal> {
    let bad = |text: &str| Err(Refusal::WithHelp(text.to_owned()));
    if !request.has("--model") && !request.has("--diffusion-model") {
        return bad("the following arguments are required: model_path/diffusion_model");
    }
    if program == Program::Server {
        return Ok(());
    }
    if release.needs_prompt() && request.get("--prompt").unwrap_or_default().is_empty() {
        return bad("the following arguments are required: prompt");
    }
    let width = request.int("--width", 512);
    let height = request.int("--height", 512);
    // Explicitly refused by the real one only below 1; a wild size is a failed allocation there.
    if width <= 0 || height <= 0 {
        return bad("the width and height must be greater than 0");
    }
    if release.needs_multiples_of_64() && (width % 64 != 0 || height % 64 != 0) {
        return bad("the width and height must be a multiple of 64");
    }
    if request.steps(20) <= 0 {
        return bad("the sample_steps must be greater than 0");
    }
    if float(request, "--cfg-scale", 7.0) < 0.0 {
        return bad("the cfg_scale must be greater than or equal to 0");
    }
    if !(0.0..=1.0).contains(&float(request, "--strength", 0.75)) {
        return bad("can only work with strength in [0.0, 1.0]");
    }
    Ok(())
}

fn float(request: &Request, long: &str, default: f64) -> f64 {
    request
        .get(long)
        .and_then(|value| leading_float(value).ok())
        .unwrap_or(default)
}

/// Like the C++ library's conversion: blanks, a sign and digits at the start count, the rest is ignored,
/// no digits at all is an exception that nobody catches.
fn leading_int(value: &str) -> Result<i64, Refusal> {
    let text = value.trim_start();
    let sign = usize::from(text.starts_with(['-', '+']));
    let digits = text
        .chars()
        .skip(sign)
        .take_while(char::is_ascii_digit)
        .count();
    if digits == 0 {
        return Err(Refusal::Abort(
            "terminate called after throwing an instance of 'std::invalid_argument'\n  what():  stoi",
        ));
    }
    text.get(..sign + digits)
        .and_then(|number| number.parse().ok())
        .ok_or(Refusal::Abort(
            "terminate called after throwing an instance of 'std::out_of_range'\n  what():  stoll",
        ))
}

fn leading_float(value: &str) -> Result<f64, Refusal> {
    let text = value.trim();
    let end = text
        .find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'))
        .unwrap_or(text.len());
    text.get(..end)
        .and_then(|number| number.parse().ok())
        .ok_or(Refusal::Abort("terminate called after throwing an instance of 'std::invalid_argument'\n  what():  stof"))
}

#[cfg(test)]
mod tests {
    use super::{Program, Refusal, Release, parse};

    fn read(line: &str, release: u32) -> Result<super::Request, Refusal> {
        let arguments: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments, Release(release), Program::Cli)
    }

    #[test]
    fn last_value_wins_and_short_names_count() {
        let request = read(
            "-m a.gguf -p x --steps 4 --steps 8 -W 64 -r a.png -r b.png",
            827,
        )
        .unwrap();
        assert_eq!(request.get("--steps"), Some("8"));
        assert_eq!(request.int("--width", 512), 64);
        assert_eq!(
            request.all("--ref-image").collect::<Vec<_>>(),
            ["a.png", "b.png"]
        );
    }

    #[test]
    fn refusals() {
        let text = |line: &str, release| match read(line, release) {
            Err(Refusal::WithHelp(text) | Refusal::Plain(text)) => text,
            Err(Refusal::Abort(text)) => format!("abort {text}"),
            Ok(_) => "accepted".to_owned(),
        };
        assert_eq!(
            text("-m a --qwen-image-zero-cond-t", 827),
            "unknown argument: --qwen-image-zero-cond-t"
        );
        assert_eq!(text("-m a --qwen-image-zero-cond-t", 764), "accepted");
        assert_eq!(text("-m a --steps 2", 990), "unknown argument: --steps");
        assert_eq!(text("-m a --sampling-steps 2", 990), "accepted");
        assert_eq!(text("-m a --llm b", 377), "unknown argument: --llm");
        assert_eq!(text("-m a -p", 827), "invalid parameter for argument: -p");
        assert!(text("-m a --sampling-method default", 827).contains("--sampling-method"));
        assert!(text("-m a --strength 1.5", 827).contains("strength"));
        assert!(text("-m a --steps 0", 827).contains("sample_steps"));
        assert!(text("-m a --steps abc", 827).ends_with("stoi"));
        assert!(text("-m a --seed 9223372036854775808", 827).contains("out_of_range"));
        assert!(text("-m a --cfg-scale -1", 827).contains("cfg_scale"));
        assert!(text("-M txt2img -m a", 827).contains("invalid mode"));
        assert!(text("-p x", 827).contains("diffusion_model"));
        assert!(text("-m a -p x -W 100", 249).contains("multiple of 64"));
        assert_eq!(text("-m a -p x -W 100", 250), "accepted");
        assert!(text("-m a", 390).contains("prompt"));
    }
}

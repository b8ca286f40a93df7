//! The command line, in the order that the reference worker used.
//!
//! It is first a list of options whose values stand for files not yet fetched, so that an option which the program
//! does not know is refused before gigabytes are downloaded. Four options are left out where the program has none such,
//! because the picture is the same without them: `--lora-model-dir` without LoRAs, `--mmap`, `--disable-image-metadata`
//! and `--diffusion-fa`.
//!
//! The program puts a number where the path of its output holds a `%d`. The host names an output by a bare name in the
//! directory in which the program runs, so no folder of the operator's is in it.

use studio_plugin::{Argument, Command, Entry, Exit, Failure, File, OutputKind, Piece, Setting};

use crate::inputs::Source;
use crate::plan::Plan;
use crate::probe::Probe;
use crate::prompt::{Text, Written};
use crate::{PROGRAM, inputs, weights};

/// What the program's environment gets. Without the first a failed check makes it start a debugger where one is installed; without
/// the second its threads spin while they wait, which on a busy machine makes small work ten times as slow.
pub(crate) const ENVIRONMENT: &[(&str, &str)] =
    &[("GGML_NO_BACKTRACE", "1"), ("OMP_WAIT_POLICY", "passive")];

/// An option and what its value will be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Opt {
    pub(crate) name: &'static str,
    pub(crate) value: Slot,
}

/// A value, or the place of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slot {
    Bare,
    Text(String),
    /// The n-th of the model's files.
    Weights(usize),
    /// A folder that shows the LoRAs and nothing else.
    Loras,
    Prompt,
    NegativePrompt,
    Picture,
    Mask,
    Output,
}

/// What was fetched and written for the job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) weights: weights::Held,
    pub(crate) inputs: inputs::Held,
    pub(crate) texts: Written,
}

/// Options being put together.
struct Options<'a> {
    probe: &'a Probe,
    list: Vec<Opt>,
}

impl Options<'_> {
    /// An option that the job cannot do without.
    fn need(&mut self, name: &'static str, value: Slot) -> Result<(), Failure> {
        self.probe.demand(name)?;
        self.list.push(Opt { name, value });
        Ok(())
    }

    /// An option that is left out where the program has none such.
    fn like(&mut self, name: &'static str, value: Slot) {
        if self.probe.knows(name) {
            self.list.push(Opt { name, value });
        }
    }

    fn text(&mut self, name: &'static str, value: impl ToString) -> Result<(), Failure> {
        self.need(name, Slot::Text(value.to_string()))
    }
}

/// The options of a job, in order.
pub(crate) fn options(plan: &Plan, probe: &Probe) -> Result<Vec<Opt>, Failure> {
    let mut options = Options {
        probe,
        list: Vec::new(),
    };
    mode(&mut options, &plan.source)?;
    for (number, part) in plan.weights.parts.iter().enumerate() {
        options.need(part.option, Slot::Weights(number))?;
    }
    if plan.weights.loras.is_empty() {
        // An empty name switches tags in prompts off; the default is the working directory.
        options.like("--lora-model-dir", Slot::Text(String::new()));
    } else {
        options.need("--lora-model-dir", Slot::Loras)?;
    }
    match &plan.prompt.text {
        Text::Inline(text) => options.text("-p", text)?,
        Text::InFile(_) => options.need("--prompt-file", Slot::Prompt)?,
    }
    match &plan.prompt.negative {
        None => {}
        Some(Text::Inline(text)) => options.text("--negative-prompt", text)?,
        Some(Text::InFile(_)) => options.need("--negative-prompt-file", Slot::NegativePrompt)?,
    }
    pictures(&mut options, &plan.source)?;
    options.text("--cfg-scale", plan.cfg_scale)?;
    options.text("--steps", plan.steps)?;
    options.text("-W", plan.width)?;
    options.text("-H", plan.height)?;
    options.need("-o", Slot::Output)?;
    options.text("--seed", plan.seed)?;
    if let Some(sampler) = &plan.sampler {
        options.text("--sampling-method", sampler)?;
    }
    if let Some(shift) = plan.flow_shift {
        options.text("--flow-shift", shift)?;
    }
    model_options(&mut options, plan)?;
    options.like("--disable-image-metadata", Slot::Bare);
    options.like("--diffusion-fa", Slot::Bare);
    Ok(options.list)
}

/// Up to release 239 the mode decides whether a picture is looked at; later ones tell by the options.
fn mode(options: &mut Options, source: &Source) -> Result<(), Failure> {
    if !options.probe.has_modes() {
        return Ok(());
    }
    match source {
        Source::Nothing => Ok(()),
        Source::Initial { .. } => options.text("-M", "img2img"),
        Source::Reference { .. } => options.text("-M", "edit"),
    }
}

fn pictures(options: &mut Options, source: &Source) -> Result<(), Failure> {
    let mask = match source {
        Source::Nothing => return Ok(()),
        Source::Reference { mask, .. } => {
            options.need("-r", Slot::Picture)?;
            mask
        }
        Source::Initial { strength, mask, .. } => {
            options.need("--init-img", Slot::Picture)?;
            options.text("--strength", strength)?;
            mask
        }
    };
    if mask.is_some() {
        options.need("--mask", Slot::Mask)?;
    }
    Ok(())
}

fn model_options(options: &mut Options, plan: &Plan) -> Result<(), Failure> {
    if plan.zero_cond_t {
        const FLAG: &str = "--qwen-image-zero-cond-t";
        if options.probe.knows(FLAG) {
            options.need(FLAG, Slot::Bare)?;
        } else {
            options.text("--model-args", "qwen_image_zero_cond_t=true")?;
        }
    }
    if plan.offload {
        options.need("--offload-to-cpu", Slot::Bare)?;
    }
    if plan.mmap {
        options.like("--mmap", Slot::Bare);
    }
    if let Some(gib) = plan.max_vram {
        options.text("--max-vram", gib)?;
    }
    Ok(())
}

/// The command, its options filled in.
pub(crate) fn command(plan: &Plan, options: &[Opt], held: &Held) -> Command {
    let mut command = Command::new(PROGRAM).timeout(plan.timeout_ms());
    command.outputs.push(OutputKind::File(plan.ext.to_owned()));
    command.environment = environment();
    command.arguments = options
        .iter()
        .map(|option| argument(option, plan, held))
        .collect();
    command
}

pub(crate) fn environment() -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    ENVIRONMENT.iter().map(owned).collect()
}

/// The picture that a run left, and its extension. A program that does not know the extension asked for writes a PNG and
/// appends `.png` to the name.
pub(crate) fn picture<'a>(exit: &'a Exit, plan: &Plan) -> Option<(&'a File, &'static str)> {
    let declared = exit.output(0).map(|file| (file, plan.ext));
    let appended = format!(".{}.png", plan.ext);
    let mut extra = exit.extra.iter();
    declared
        .or_else(|| {
            let found = extra.find(|file| file.name.ends_with(&appended));
            found.map(|file| (file, "png"))
        })
        .filter(|(file, _)| file.size > 0)
}

pub(crate) fn argument(option: &Opt, plan: &Plan, held: &Held) -> Argument {
    let name = option.name.to_owned();
    let one = |file: Option<&File>| {
        file.map(|file| vec![Piece::File(file.id)])
            .unwrap_or_default()
    };
    let value = match &option.value {
        Slot::Bare => return Argument::Flag(name),
        Slot::Text(text) => vec![Piece::Text(text.clone())],
        Slot::Weights(number) => one(held.weights.parts.get(*number)),
        Slot::Loras => vec![lora_folder(plan, held)],
        Slot::Prompt => one(held.texts.text.as_ref()),
        Slot::NegativePrompt => one(held.texts.negative.as_ref()),
        Slot::Picture => held
            .inputs
            .picture
            .as_ref()
            .map(inputs::Shown::path)
            .unwrap_or_default(),
        Slot::Mask => held
            .inputs
            .mask
            .as_ref()
            .map(inputs::Shown::path)
            .unwrap_or_default(),
        Slot::Output => vec![Piece::Output(0)],
    };
    Argument::Setting(Setting {
        name,
        value,
        equals: false,
    })
}

fn lora_folder(plan: &Plan, held: &Held) -> Piece {
    let entries = plan.weights.loras.iter().zip(&held.weights.loras);
    Piece::Directory(
        entries
            .map(|(lora, file)| Entry {
                name: lora.entry.clone(),
                file: file.id,
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests;

//! Where a product came from, in the words that go into it.
//!
//! One XMP packet where the format has a place for it, a comment in a WAV. It says which model, seed and size; a digest of the
//! prompt, which proves what was asked without telling it; which plugins and programs by name and digest.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use studio_plugin::json::Value;
use studio_plugin::{Provenance, RawJob};

/// Longest text of one entry, in characters. Facts are an engine plugin's: one must not fill every file.
const LONGEST: usize = 200;

/// Most plugins, programs and facts, each. Together with [`LONGEST`], and each character taking five bytes at worst, the packet stays
/// below the 64 KiB that a segment of a JPEG can hold.
const MOST: usize = 16;

/// What is known about a product.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    /// Name and value of what there is one of.
    single: Vec<(String, String)>,
    plugins: Vec<String>,
    programs: Vec<String>,
    /// Other facts, as `name=value`.
    facts: Vec<String>,
}

/// Facts that have a name of their own in the record.
const NAMED: &[&str] = &["seed", "width", "height", "steps"];

impl Record {
    /// Puts a record together.
    pub(crate) fn make(job: &RawJob, provenance: &Provenance) -> Self {
        let mut record = Self::default();
        record.set("model", &job.model);
        record.set("engine", &engine(job).unwrap_or_default());
        let (named, others): (Vec<_>, Vec<_>) = provenance
            .facts
            .iter()
            .partition(|(name, _)| NAMED.contains(&name.as_str()));
        for (name, value) in named {
            record.set(name, value);
        }
        if let Some(words) = subject(job) {
            record.set("promptSha256", &hex(&Sha256::digest(words.as_bytes())));
        }
        record.set("generation", &provenance.generation);
        record.plugins = list(
            provenance
                .plugins
                .iter()
                .map(|(name, version, digest)| format!("{name} {version} sha256:{digest}")),
        );
        record.programs = list(
            provenance
                .programs
                .iter()
                .map(|(name, digest)| format!("{name} sha256:{digest}")),
        );
        record.facts = list(
            others
                .into_iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        record
    }

    /// The size as it was measured, whatever the engine said.
    pub(crate) fn with_size(mut self, width: u32, height: u32) -> Self {
        self.set("width", &width.to_string());
        self.set("height", &height.to_string());
        self
    }

    fn set(&mut self, name: &str, value: &str) {
        self.single.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.single.push((name.to_owned(), bounded(value)));
        }
    }

    /// Which plugins made it, for a field that holds the name of a program.
    pub(crate) fn software(&self) -> String {
        let plugins: Vec<_> = self
            .plugins
            .iter()
            .filter_map(|plugin| plugin.split(" sha256:").next())
            .collect();
        format!("studio-worker ({})", plugins.join(", "))
    }

    /// Everything in one line.
    pub(crate) fn line(&self) -> String {
        let single = self
            .single
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let lists = [("plugin", &self.plugins), ("program", &self.programs)];
        let lists = lists
            .into_iter()
            .flat_map(|(name, list)| list.iter().map(move |entry| format!("{name}={entry}")));
        let all: Vec<_> = single
            .chain(lists)
            .chain(self.facts.iter().cloned())
            .collect();
        all.join("; ").replace(char::is_control, " ")
    }

    /// An XMP packet.
    pub(crate) fn xmp(&self) -> String {
        let mut xmp = String::from(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n\
             <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n\
             <rdf:Description rdf:about=\"\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" xmlns:sw=\"urn:studio-worker:provenance:1:\">\n",
        );
        let _ = writeln!(
            xmp,
            "<xmp:CreatorTool>{}</xmp:CreatorTool>",
            escaped(&self.software())
        );
        for (name, value) in &self.single {
            let _ = writeln!(xmp, "<sw:{name}>{}</sw:{name}>", escaped(value));
        }
        for (name, entries) in [
            ("plugins", &self.plugins),
            ("programs", &self.programs),
            ("facts", &self.facts),
        ] {
            if !entries.is_empty() {
                let items: String = entries
                    .iter()
                    .map(|entry| format!("<rdf:li>{}</rdf:li>", escaped(entry)))
                    .collect();
                let _ = writeln!(xmp, "<sw:{name}><rdf:Seq>{items}</rdf:Seq></sw:{name}>");
            }
        }
        xmp.push_str("</rdf:Description>\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"r\"?>");
        xmp
    }
}

/// The words that the job is known by.
fn subject(job: &RawJob) -> Option<String> {
    let task = job.task_value().ok()?;
    let text = |name: &str| task.get(name).and_then(Value::as_str);
    let last_message = || {
        task.get("messages")?
            .as_array()?
            .last()?
            .get("content")?
            .as_str()
    };
    text("prompt")
        .or_else(|| text("text"))
        .or_else(last_message)
        .or_else(|| text("inputUrl"))
        .map(str::to_owned)
}

fn engine(job: &RawJob) -> Option<String> {
    let source: Value = studio_plugin::json::from_str(&job.model_source).ok()?;
    source.get("engine")?.as_str().map(str::to_owned)
}

fn list(entries: impl Iterator<Item = String>) -> Vec<String> {
    entries.take(MOST).map(|entry| bounded(&entry)).collect()
}

fn bounded(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text inside an element. Characters that XML has no way to hold become a mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

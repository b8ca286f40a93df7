//! Short ways to put the contract's records together.

use crate::{
    Argument, Backend, Command, Description, Download, Exit, Failure, File, Finished, Media,
    Output, OutputKind, Overrides, Part, Piece, Server, Setting, SupportedKind,
};

/// Any JSON.
pub use serde_json::Value;

impl Failure {
    /// Trying again cannot help: the input is wrong, or it would fail anywhere.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retryable: false,
        }
    }

    /// Trying again, here or elsewhere, may help.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retryable: true,
        }
    }

    /// The same, its message behind what was being done: `reading the mask: …`.
    #[must_use]
    pub fn while_doing(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl Download {
    /// For this job only, as large as the host allows.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            cache_as: None,
            sha256: None,
            approx_bytes: None,
            max_bytes: None,
        }
    }

    /// Refuses a body longer than this many bytes.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Keeps it in the model cache, shown under this name.
    #[must_use]
    pub fn cached_as(mut self, name: impl Into<String>) -> Self {
        self.cache_as = Some(name.into());
        self
    }
}

impl Command {
    /// A run of a declared backend, without arguments so far.
    pub fn new(backend: impl Into<String>) -> Self {
        Self {
            backend: backend.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            outputs: Vec::new(),
            input: Vec::new(),
            timeout_ms: None,
        }
    }

    /// Appends an option without a value.
    #[must_use]
    pub fn flag(mut self, name: impl Into<String>) -> Self {
        self.arguments.push(Argument::Flag(name.into()));
        self
    }

    /// Appends an option and its value: a text, a file, an [`Piece`].
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<Piece>) -> Self {
        self.arguments.push(Argument::Setting(Setting {
            name: name.into(),
            value: vec![value.into()],
            equals: false,
        }));
        self
    }

    /// Appends an argument that is no option; the host refuses one that begins with `-`.
    #[must_use]
    pub fn positional(mut self, value: impl Into<Piece>) -> Self {
        self.arguments
            .push(Argument::Positional(vec![value.into()]));
        self
    }

    /// Appends an option whose value is the path of a new output of this kind.
    #[must_use]
    pub fn output(self, name: impl Into<String>, kind: OutputKind) -> Self {
        let number = u32::try_from(self.outputs.len()).unwrap_or(u32::MAX);
        let mut command = self.setting(name, Piece::Output(number));
        command.outputs.push(kind);
        command
    }

    /// Declares an output that no argument names: standard output.
    #[must_use]
    pub fn keep(mut self, kind: OutputKind) -> Self {
        self.outputs.push(kind);
        self
    }

    /// Ends the program after this many milliseconds.
    #[must_use]
    pub fn timeout(mut self, milliseconds: u64) -> Self {
        self.timeout_ms = Some(milliseconds);
        self
    }
}

impl Exit {
    /// Whether the program ended by itself with code 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// The only file of the n-th output; none when the program wrote nothing.
    pub fn output(&self, number: usize) -> Option<&File> {
        self.outputs.get(number)?.first()
    }
}

impl From<&str> for Piece {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Piece {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&File> for Piece {
    fn from(file: &File) -> Self {
        Self::File(file.id)
    }
}

impl From<Vec<u8>> for Part {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Bytes(text.into_bytes())
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl From<&File> for Part {
    fn from(file: &File) -> Self {
        Self::File(file.id)
    }
}

impl Finished {
    /// A file: bytes of the plugin's, or one that the host holds.
    pub fn media(content: impl Into<Part>, ext: impl Into<String>) -> Self {
        Self {
            output: Output::Media(Media {
                content: content.into(),
                ext: ext.into(),
                media_type: None,
            }),
            facts: Vec::new(),
        }
    }

    /// A JSON result.
    pub fn json(value: &Value) -> Self {
        Self {
            output: Output::Json(value.to_string()),
            facts: Vec::new(),
        }
    }

    /// Says what the file is, for an extension that the host does not know.
    #[must_use]
    pub fn media_type(mut self, name: impl Into<String>) -> Self {
        if let Output::Media(media) = &mut self.output {
            media.media_type = Some(name.into());
        }
        self
    }

    /// Records what was really used: `fact("seed", 7)`.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.facts.push((name.into(), value.to_string()));
        self
    }
}

impl Description {
    /// Serves offers whose `modelSource.engine` is one of these.
    pub fn new<E: Into<String>>(engines: impl IntoIterator<Item = E>) -> Self {
        Self {
            engines: engines.into_iter().map(Into::into).collect(),
            kinds: Vec::new(),
            backends: Vec::new(),
        }
    }

    /// Adds a task kind, with the model names that the studio is shown for it.
    #[must_use]
    pub fn kind<M: Into<String>>(
        mut self,
        kind: impl Into<String>,
        models: impl IntoIterator<Item = M>,
    ) -> Self {
        self.kinds.push(SupportedKind {
            kind: kind.into(),
            models: models.into_iter().map(Into::into).collect(),
        });
        self
    }

    /// Adds a native program that it needs.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backends.push(backend);
        self
    }
}

impl Backend {
    /// A program of that name which is not downloaded, probed or served, and cannot be done without.
    pub fn new(name: impl Into<String>, program: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            release: None,
            overrides: Overrides {
                path: None,
                release: None,
                url: None,
            },
            probes: Vec::new(),
            strict_options: false,
            serves: None,
            optional: false,
        }
    }

    /// The release to download where the operator has no program of his own.
    #[must_use]
    pub fn release(mut self, release: impl Into<String>) -> Self {
        self.release = Some(release.into());
        self
    }

    /// The operator's environment variables: a program, a release, an archive's URL.
    #[must_use]
    pub fn overrides(mut self, path: &str, release: &str, url: &str) -> Self {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        self.overrides = Overrides {
            path: named(path),
            release: named(release),
            url: named(url),
        };
        self
    }

    /// Adds arguments whose output tells what the program can do: `["--help"]`.
    #[must_use]
    pub fn probe<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.probes
            .push(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Has the host refuse options that the probes do not show.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict_options = true;
        self
    }

    /// Makes it a server that the host keeps warm.
    #[must_use]
    pub fn server(mut self, server: Server) -> Self {
        self.serves = Some(server);
        self
    }

    /// Says that the engine can do without it.
    #[must_use]
    pub fn dispensable(mut self) -> Self {
        self.optional = true;
        self
    }
}

//! Containers that are known by their signature and passed on as they are.

use studio_plugin::Failure;

use crate::broken;

/// A family of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Gif,
    IsoMedia,
    Matroska,
    Mpeg,
    Ogg,
    Flac,
    Gltf,
}

impl Container {
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let at = |offset: usize, magic: &[u8]| {
            bytes
                .get(offset..)
                .is_some_and(|rest| rest.starts_with(magic))
        };
        // An MPEG audio frame begins with eleven set bits, a version that is not reserved, and layer III.
        let frame =
            matches!(bytes, [0xff, second, ..] if second & 0xe6 == 0xe2 && second & 0x18 != 0x08);
        Some(match () {
            () if at(0, b"GIF87a") || at(0, b"GIF89a") => Self::Gif,
            () if at(4, b"ftyp") => Self::IsoMedia,
            () if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) => Self::Matroska,
            () if at(0, b"ID3") || frame => Self::Mpeg,
            () if at(0, b"OggS") => Self::Ogg,
            () if at(0, b"fLaC") => Self::Flac,
            () if at(0, b"glTF") => Self::Gltf,
            () => return None,
        })
    }

    /// Extensions of the family, the usual one first.
    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Gif => &["gif"],
            Self::IsoMedia => &["mp4", "m4a", "mov"],
            Self::Matroska => &["webm"],
            Self::Mpeg => &["mp3"],
            Self::Ogg => &["ogg", "opus"],
            Self::Flac => &["flac"],
            Self::Gltf => &["glb"],
        }
    }

    /// The extension it goes under: its own where the family has it, else the usual one.
    pub(crate) fn name(self, ext: &str) -> String {
        let ext = ext.to_ascii_lowercase();
        let known = self.extensions();
        if known.contains(&ext.as_str()) {
            ext
        } else {
            known.first().copied().unwrap_or_default().to_owned()
        }
    }

    /// Whether it is whole, for the one whose header says how long it is.
    pub(crate) fn check(self, bytes: &[u8]) -> Result<(), Failure> {
        if self != Self::Gltf {
            return Ok(());
        }
        let length = bytes
            .get(8..12)
            .and_then(|length| length.try_into().ok())
            .map(u32::from_le_bytes);
        match length {
            Some(length) if usize::try_from(length) == Ok(bytes.len()) => Ok(()),
            _ => Err(broken(
                "glb",
                format!(
                    "its header says {} bytes, and it has {}",
                    length.unwrap_or(0),
                    bytes.len()
                ),
            )),
        }
    }
}

/// A product that is nothing known. The engine would make the same again.
pub(crate) fn unknown(bytes: &[u8], ext: &str) -> Failure {
    if bytes.is_empty() {
        return broken(ext, "it is empty");
    }
    let head: String = bytes
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Failure::permanent(format!(
        "the product is called {ext} and is none (it begins with {head}); mend the engine plugin, or the name it gives its output"
    ))
}

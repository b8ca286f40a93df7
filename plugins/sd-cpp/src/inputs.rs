//! Pictures that come with the task: to start from, to refer to, and a mask for either.
//!
//! The program chooses its decoder by a file's extension, and the URLs of studios lie about it, so each file is shown to it
//! under a name made from what the content is.

use studio_plugin::{Context, Download, Entry, Failure, File, ImageTask, Piece};

use crate::choices;

/// Largest input picture, in bytes. A 16-bit PNG of 3000 pixels a side is smaller; more is no picture for this program.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What the picture is made from besides words.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Source {
    #[default]
    Nothing,
    /// A picture to start from, and how far to go from it.
    Initial {
        url: String,
        strength: f32,
        mask: Option<String>,
    },
    /// A picture to refer to. Wins over an initial one.
    Reference {
        url: String,
        mask: Option<String>,
        ignored: Option<String>,
    },
}

/// Fetched pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) picture: Option<Shown>,
    pub(crate) mask: Option<Shown>,
}

/// A fetched picture and the name that it is shown under.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) file: File,
    /// As in `initial picture`.
    pub(crate) title: &'static str,
    pub(crate) name: String,
}

impl Source {
    /// Reads the task's pictures. An empty URL is none.
    pub(crate) fn of(task: &ImageTask) -> Result<Self, Failure> {
        let given = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
        let (initial, reference, mask) = (
            given(&task.init_image_url),
            given(&task.ref_image_url),
            given(&task.mask_url),
        );
        match (reference, initial) {
            (Some(url), ignored) => Ok(Self::Reference { url, mask, ignored }),
            (None, Some(url)) => Ok(Self::Initial {
                url,
                strength: choices::strength(task)?,
                mask,
            }),
            (None, None) if mask.is_some() => Err(Failure::permanent(
                "task.maskUrl needs a picture that it masks: give initImageUrl or refImageUrl too, or no mask",
            )),
            (None, None) => Ok(Self::Nothing),
        }
    }

    /// What of the task's pictures does not count, in words.
    pub(crate) fn ignored(&self) -> Option<&'static str> {
        match self {
            Self::Reference {
                ignored: Some(_), ..
            } => Some("initImageUrl is not used beside refImageUrl"),
            _ => None,
        }
    }

    /// The picture's title and URL, and the mask's URL.
    fn wanted(&self) -> Option<(&'static str, &str, Option<&str>)> {
        match self {
            Self::Nothing => None,
            Self::Initial { url, mask, .. } => Some(("initial picture", url, mask.as_deref())),
            Self::Reference { url, mask, .. } => Some(("reference picture", url, mask.as_deref())),
        }
    }
}

/// Fetches the task's pictures; none of them is ever left out.
pub(crate) async fn fetch(context: &Context, source: &Source) -> Result<Held, Failure> {
    let Some((title, url, mask)) = source.wanted() else {
        return Ok(Held::default());
    };
    let downloads = [Some(url), mask]
        .into_iter()
        .flatten()
        .map(|url| Download::new(url).at_most(LARGEST));
    let files = context
        .fetch(downloads)
        .await
        .map_err(|failure| failure.while_doing("fetching the task's pictures"))?;
    let mut files = files.into_iter();
    let mut shown = |title, stem| {
        files
            .next()
            .map(|file| Shown::make(file, title, stem))
            .transpose()
    };
    Ok(Held {
        picture: shown(title, "picture")?,
        mask: shown("mask", "mask")?,
    })
}

impl Shown {
    fn make(file: File, title: &'static str, stem: &str) -> Result<Self, Failure> {
        let ext = match file.media_type.as_deref() {
            Some("image/png") => "png",
            Some("image/jpeg") => "jpg",
            Some("image/webp") => "webp",
            Some("image/bmp" | "image/x-ms-bmp") => "bmp",
            Some("image/gif") => "gif",
            other => {
                return Err(Failure::permanent(format!(
                    "the {title} is {}; sd-cli reads PNG, JPEG, WebP, BMP and GIF",
                    other.unwrap_or("of no type that is known")
                )));
            }
        };
        Ok(Self {
            file,
            title,
            name: format!("{stem}.{ext}"),
        })
    }

    /// Its path on a command line: the file itself where its name says what it is, else a folder that shows it by the right name.
    pub(crate) fn path(&self) -> Vec<Piece> {
        let ext = |name: &str| {
            name.rsplit_once('.')
                .map(|(_, ext)| ext.to_ascii_lowercase().replace("jpeg", "jpg"))
        };
        if ext(&self.file.name) == ext(&self.name) {
            return vec![Piece::File(self.file.id)];
        }
        let entry = Entry {
            name: self.name.clone(),
            file: self.file.id,
        };
        vec![
            Piece::Directory(vec![entry]),
            Piece::Text(format!("/{}", self.name)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{file, task};

    #[test]
    fn what_the_picture_is_made_from() {
        let of = |fields: &str| Source::of(&task(fields));
        assert_eq!(
            of(r#""initImageUrl":"","refImageUrl":null"#).unwrap(),
            Source::Nothing
        );
        assert_eq!(
            of(r#""initImageUrl":"u","maskUrl":"m","denoise":0.5"#).unwrap(),
            Source::Initial {
                url: "u".to_owned(),
                strength: 0.5,
                mask: Some("m".to_owned())
            }
        );
        assert_eq!(
            of(r#""initImageUrl":"u","refImageUrl":"r","denoise":7"#).unwrap(),
            Source::Reference {
                url: "r".to_owned(),
                mask: None,
                ignored: Some("u".to_owned())
            }
        );
        assert!(
            of(r#""initImageUrl":"u","denoise":7"#)
                .unwrap_err()
                .message
                .contains("task.denoise")
        );
        let failure = of(r#""maskUrl":"m""#).unwrap_err();
        assert!(failure.message.contains("task.maskUrl") && !failure.retryable);
    }

    #[test]
    fn a_lying_name_is_mended() {
        let path = |name: &str, kind: &str| {
            Shown::make(file(4, name, kind), "mask", "mask")
                .unwrap()
                .path()
        };
        assert_eq!(path("a.PNG", "image/png"), [Piece::File(4)]);
        assert_eq!(path("a.jpeg", "image/jpeg"), [Piece::File(4)]);
        for name in ["latest.webp", "asset"] {
            assert_eq!(
                path(name, "image/jpeg"),
                [
                    Piece::Directory(vec![Entry {
                        name: "mask.jpg".to_owned(),
                        file: 4
                    }]),
                    Piece::Text("/mask.jpg".to_owned())
                ]
            );
        }
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for kind in ["text/html", "image/tiff", ""] {
            let failure =
                Shown::make(file(4, "a.png", kind), "initial picture", "picture").unwrap_err();
            assert!(
                failure.message.starts_with("the initial picture is"),
                "{}",
                failure.message
            );
            assert!(!failure.retryable);
        }
    }
}

//! Which release of the real program is played.
//!
//! Releases are counted as upstream counts them (commits up to the tag). Flags carry their own range in
//! [`crate::flags`]; what changed otherwise is a method here, so that a new difference has one place to go.

/// First release whose builds carry a number in their tag; nothing older was ever distributed with one.
const DEFAULT: u32 = 827;

/// A release number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release(pub(crate) u32);

impl Default for Release {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl Release {
    /// Reads `827` or `master-827-97d2990`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.trim()
            .split('-')
            .find_map(|part| part.parse().ok())
            .map(Self)
    }

    /// A picture named `.webp` is one; before, it became a PNG with `.png` appended to its name.
    pub(crate) fn writes_webp(self) -> bool {
        self.0 >= 552
    }

    /// Nothing saved means exit 1; before, it was said and the program ended with 0.
    pub(crate) fn fails_when_unsaved(self) -> bool {
        self.0 >= 497
    }

    /// An empty prompt is an error.
    pub(crate) fn needs_prompt(self) -> bool {
        self.0 < 391
    }

    /// The mode says what becomes of a picture given.
    pub(crate) fn has_old_modes(self) -> bool {
        self.0 < 240
    }

    /// Width and height have to be multiples of 64; later they are rounded up silently.
    pub(crate) fn needs_multiples_of_64(self) -> bool {
        self.0 < 250
    }

    /// Without `-W` and `-H` the size is that of the picture given.
    pub(crate) fn sizes_from_input(self) -> bool {
        self.0 >= 483
    }

    /// Creates the folder that the picture goes to.
    pub(crate) fn makes_output_folder(self) -> bool {
        self.0 >= 272
    }

    /// `--help` also prints an error line, although it succeeds.
    pub(crate) fn complains_about_help(self) -> bool {
        self.0 < 674
    }

    /// The bar of tensor loading: its character and unit.
    pub(crate) fn loading_bar(self) -> (char, &'static str) {
        match self.0 {
            ..548 => ('=', "it/s"),
            548..691 => ('=', "MB/s"),
            _ => ('#', "MB/s"),
        }
    }

    /// The server came when the command got its name of today; before, that was `sd`.
    pub(crate) fn has_server(self) -> bool {
        self.0 >= 411
    }

    /// The server has its native routes. Which release brought them is not known but that it was one of 553 to 611; the last of
    /// them is played, so that a driver that counts on an earlier one is found out.
    pub(crate) fn has_native_routes(self) -> bool {
        self.0 >= 611
    }

    /// Knows `--version` as its first argument.
    pub(crate) fn has_version(self) -> bool {
        self.0 >= 405
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn reads_number_and_tag() {
        assert_eq!(Release::parse("444\n"), Some(Release(444)));
        assert_eq!(Release::parse("master-827-97d2990"), Some(Release(827)));
        assert_eq!(Release::parse("newest"), None);
    }
}

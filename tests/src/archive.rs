//! Zip archives made by hand, so that they can say what no honest tool would write.

/// One entry, stored as it is.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, in any bytes.
    pub name: Vec<u8>,
    /// Its content.
    pub content: Vec<u8>,
    /// Type and permissions, as Unix has them; none for an archive made elsewhere.
    pub mode: Option<u32>,
    /// The size that it claims; none for the true one.
    pub claimed: Option<u32>,
}

/// A regular file with `0644`.
pub fn file(name: impl AsRef<[u8]>, content: impl Into<Vec<u8>>) -> Entry {
    Entry {
        name: name.as_ref().to_vec(),
        content: content.into(),
        mode: Some(0o100_644),
        claimed: None,
    }
}

/// An entry of another type.
pub fn special(name: &str, content: &str, mode: u32) -> Entry {
    Entry {
        mode: Some(mode),
        ..file(name, content)
    }
}

/// The archive's bytes.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = u32::try_from(out.len()).expect("a small archive");
        let length = u32::try_from(entry.content.len()).expect("a small file");
        let name = u16::try_from(entry.name.len()).expect("a short name");
        let mut common = Vec::new();
        // Version needed, flags (names in UTF-8), stored, time and date.
        for field in [20_u16, 0x0800, 0, 0, 0x21] {
            common.extend(field.to_le_bytes());
        }
        for field in [
            crc32(&entry.content),
            length,
            entry.claimed.unwrap_or(length),
        ] {
            common.extend(field.to_le_bytes());
        }
        common.extend(name.to_le_bytes());
        common.extend(0_u16.to_le_bytes());

        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(&entry.name);
        out.extend(&entry.content);

        directory.extend(b"PK\x01\x02");
        // Made by: Unix, or DOS, which has no modes.
        let made_by: u16 = if entry.mode.is_some() {
            3 << 8 | 20
        } else {
            20
        };
        directory.extend(made_by.to_le_bytes());
        directory.extend(&common);
        // No comment, first disk, no internal attributes.
        directory.extend([0; 6]);
        directory.extend((entry.mode.unwrap_or(0) << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(&entry.name);
    }
    let (start, length) = (out.len(), directory.len());
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    let count = u16::try_from(entries.len()).expect("few entries");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(
        u32::try_from(length)
            .expect("a small archive")
            .to_le_bytes(),
    );
    out.extend(u32::try_from(start).expect("a small archive").to_le_bytes());
    out.extend(0_u16.to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

//! Prefix codes as lossless WebP has them, and the bits they are written in.

/// Longest prefix code of the format; those of code lengths are at most 7.
const LONGEST_CODE: u8 = 15;
const LONGEST_LENGTH_CODE: u8 = 7;
/// Room made for what is written, in bytes, and then as much again each time. Less copies more often.
const LEAST_ROOM: usize = 64 * 1024;
/// Symbols that code lengths are written in.
pub(super) const LENGTH_SYMBOLS: usize = 19;

/// A canonical prefix code.
pub(super) struct Code {
    /// 0 for symbols that do not occur.
    lengths: Vec<u8>,
    /// As they are written; of no length when only one symbol occurs.
    entries: Vec<Bits>,
    /// The only symbol, where there is one.
    only: Option<usize>,
}

impl Code {
    /// Of symbols that occur so often.
    pub(super) fn of(counts: &[u32]) -> Self {
        Self::no_longer_than(LONGEST_CODE, counts)
    }

    fn no_longer_than(longest: u8, counts: &[u32]) -> Self {
        let mut used = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let only = match (used.next(), used.next()) {
            (Some((symbol, _)), None) => Some(symbol),
            _ => None,
        };
        let lengths = code_lengths(counts, longest);
        let entries = match only {
            Some(_) => vec![Bits::default(); counts.len()],
            None => canonical(&lengths),
        };
        Self {
            lengths,
            entries,
            only,
        }
    }

    /// How a symbol is written.
    #[inline]
    pub(super) fn of_symbol(&self, symbol: usize) -> Bits {
        self.entries.get(symbol).copied().unwrap_or_default()
    }

    /// Length of each symbol, 0 for those that do not occur.
    pub(super) fn lengths(&self) -> &[u8] {
        &self.lengths
    }

    /// The only symbol that occurs, where there is one.
    pub(super) fn only(&self) -> Option<usize> {
        self.only
    }
}

/// Code lengths, packed, with the code that they are to be written in.
pub(super) struct Lengths {
    tokens: Vec<(usize, Bits)>,
    code: Code,
}

impl Lengths {
    pub(super) fn of(lengths: &[u8]) -> Self {
        let tokens = run_lengths(lengths);
        let mut counts = [0_u32; LENGTH_SYMBOLS];
        for (symbol, _) in &tokens {
            if let Some(count) = counts.get_mut(*symbol) {
                *count += 1;
            }
        }
        Self {
            tokens,
            code: Code::no_longer_than(LONGEST_LENGTH_CODE, &counts),
        }
    }

    /// Writes the length of each symbol that lengths are written in, in the order of the format.
    pub(super) fn write_code(&self, writer: &mut BitWriter<'_>, order: [usize; LENGTH_SYMBOLS]) {
        for symbol in order {
            let length = self.code.lengths.get(symbol).copied().unwrap_or_default();
            writer.put(length.into(), 3);
        }
    }

    /// Writes the lengths.
    pub(super) fn write(&self, writer: &mut BitWriter<'_>) {
        for (symbol, extra) in &self.tokens {
            writer.write(self.code.of_symbol(*symbol).then(*extra));
        }
    }
}

/// How the format says a length: a symbol, and bits as they are.
pub(super) struct PrefixCode {
    pub(super) symbol: usize,
    pub(super) extra: Bits,
}

/// For a length of 1 to 4096.
#[inline]
pub(super) fn prefix_code(value: u32) -> PrefixCode {
    let value = value - 1;
    if value < 4 {
        return PrefixCode {
            symbol: value as usize,
            extra: Bits::default(),
        };
    }
    // The two highest bits make the symbol, the rest is written as it is.
    let highest = value.ilog2();
    let symbol = 2 * highest + (value >> (highest - 1) & 1);
    PrefixCode {
        symbol: symbol as usize,
        extra: Bits::lowest(value, highest - 1),
    }
}

/// Code lengths as the format packs them: runs of zeros by 17 and 18, all others one by one.
fn run_lengths(lengths: &[u8]) -> Vec<(usize, Bits)> {
    let mut tokens = Vec::new();
    for run in lengths.chunk_by(|one, next| one == next) {
        let length = run.first().copied().unwrap_or_default();
        let mut left = run.len();
        while length == 0 && left >= 3 {
            let taken = left.min(138);
            let (symbol, bits, least) = if taken < 11 { (17, 3, 3) } else { (18, 7, 11) };
            let extra = u32::try_from(taken - least).unwrap_or_default();
            tokens.push((symbol, Bits::lowest(extra, bits)));
            left -= taken;
        }
        tokens.extend(std::iter::repeat_n(
            (usize::from(length), Bits::default()),
            left,
        ));
    }
    tokens
}

/// Huffman's code lengths, none above `longest`. A symbol that is alone gets length 1.
pub(super) fn code_lengths(counts: &[u32], longest: u8) -> Vec<u8> {
    let mut floor = 1;
    loop {
        let lengths = huffman(counts, floor);
        if lengths.iter().all(|length| *length <= longest) {
            return lengths;
        }
        // Rare symbols counted as less rare make the tree flatter.
        floor *= 2;
    }
}

fn huffman(counts: &[u32], floor: u32) -> Vec<u8> {
    /// A tree: its weight, and where its parent is once it has one.
    struct Node {
        weight: u64,
        parent: usize,
    }
    let mut leaves: Vec<(u64, usize)> = counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(symbol, count)| (u64::from((*count).max(floor)), symbol))
        .collect();
    leaves.sort_unstable();
    let mut lengths = vec![0; counts.len()];
    let mut nodes: Vec<Node> = leaves
        .iter()
        .map(|(weight, _)| Node {
            weight: *weight,
            parent: usize::MAX,
        })
        .collect();
    // Leaves and inner nodes are each in ascending order: the two lightest stand at the fronts.
    let (mut next_leaf, mut next_inner) = (0, leaves.len());
    for _ in 1..leaves.len() {
        let parent = nodes.len();
        let mut weight = 0;
        for _ in 0..2 {
            let leaf = (next_leaf < leaves.len())
                .then(|| nodes.get(next_leaf))
                .flatten();
            let inner = nodes.get(next_inner);
            let take_leaf = match (leaf, inner) {
                (Some(leaf), Some(inner)) => leaf.weight <= inner.weight,
                (Some(_), None) => true,
                (None, _) => false,
            };
            let taken = if take_leaf {
                &mut next_leaf
            } else {
                &mut next_inner
            };
            if let Some(node) = nodes.get_mut(*taken) {
                node.parent = parent;
                weight += node.weight;
            }
            *taken += 1;
        }
        nodes.push(Node {
            weight,
            parent: usize::MAX,
        });
    }
    // From the root down: parents stand behind their children.
    let mut depths = vec![0_u8; nodes.len()];
    for place in (0..nodes.len()).rev() {
        let above = nodes
            .get(place)
            .and_then(|node| depths.get(node.parent))
            .copied();
        if let (Some(above), Some(depth)) = (above, depths.get_mut(place)) {
            *depth = above.saturating_add(1);
        }
    }
    for ((_, symbol), depth) in leaves.iter().zip(depths) {
        if let Some(length) = lengths.get_mut(*symbol) {
            *length = depth.max(1);
        }
    }
    lengths
}

/// Codes in the order of length, then symbol; turned round, because bits are written lowest first.
fn canonical(lengths: &[u8]) -> Vec<Bits> {
    let mut next = [0_u32; LONGEST_CODE as usize + 2];
    for length in lengths.iter().filter(|length| **length > 0) {
        if let Some(count) = next.get_mut(usize::from(*length) + 1) {
            *count += 1;
        }
    }
    let mut code = 0;
    for slot in next.iter_mut().skip(1) {
        code = (code + *slot) << 1;
        *slot = code;
    }
    lengths
        .iter()
        .map(|&length| match next.get_mut(usize::from(length)) {
            Some(slot) if length > 0 => {
                let code = *slot;
                *slot += 1;
                let turned = code.reverse_bits() >> (32 - u32::from(length));
                Bits {
                    bits: turned.into(),
                    count: length,
                }
            }
            _ => Bits::default(),
        })
        .collect()
}

/// Bits that belong together, the first lowest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bits {
    pub(super) bits: u64,
    pub(super) count: u8,
}

impl Bits {
    /// The lowest bits of a value.
    #[inline]
    pub(super) fn lowest(value: u32, count: u32) -> Self {
        Self {
            bits: u64::from(value) & ((1 << count) - 1),
            count: u8::try_from(count).unwrap_or_default(),
        }
    }

    /// The same once, twice or three times, without asking which; at most 18 bits.
    #[inline]
    pub(super) fn times(self, times: u32) -> Self {
        let count = u32::from(self.count);
        let thrice = self.bits | self.bits << count | self.bits << (2 * count);
        let count = count * times;
        Self {
            bits: thrice & ((1 << count) - 1),
            count: u8::try_from(count).unwrap_or_default(),
        }
    }

    /// These and those, at most 64 in all.
    #[inline]
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            bits: self.bits | next.bits << self.count,
            count: self.count + next.count,
        }
    }
}

/// The bits of one symbol in one number, none of no bits at all: the bits above their count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packed(u32);

impl Bits {
    /// Of at most 24 bits.
    pub(super) fn packed(self) -> Packed {
        let bits = u32::try_from(self.bits).unwrap_or_default();
        Packed(bits << 8 | u32::from(self.count))
    }
}

impl Packed {
    #[inline]
    pub(super) fn bits(self) -> Option<Bits> {
        let [count, ..] = self.0.to_le_bytes();
        let bits = u64::from(self.0 >> 8);
        (count > 0).then_some(Bits { bits, count })
    }
}

/// Writes bits, the lowest first.
pub(super) struct BitWriter<'a> {
    /// Longer than what is written, so that whole words can be put down.
    bytes: &'a mut Vec<u8>,
    position: Position,
}

/// How far a writer is. Whoever writes much keeps it at hand, where reading and writing it costs nothing.
#[derive(Clone, Copy)]
pub(super) struct Position {
    /// Where the next word goes.
    at: usize,
    /// Fewer than 8 bits.
    pending: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    /// Writes behind what is there.
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        let at = bytes.len();
        Self {
            bytes,
            position: Position {
                at,
                pending: 0,
                count: 0,
            },
        }
    }

    /// Where it is, with room for so many writes.
    pub(super) fn with_room_for(&mut self, writes: usize) -> Position {
        let needed = self.position.at + (writes + 2) * size_of::<u64>();
        if self.bytes.len() < needed {
            self.bytes.resize(needed + self.position.at + LEAST_ROOM, 0);
        }
        self.position
    }

    /// Where it is.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Goes on behind what was written meanwhile.
    pub(super) fn go_on_at(&mut self, position: Position) {
        self.position = position;
    }

    /// Writes at most 56 bits, for which there is room; those above their count must be zero. A word is put down every
    /// time, whose last bytes the next one writes anew: quicker than finding out whether there is a whole word to put down.
    #[inline]
    pub(super) fn write_at(&mut self, position: Position, bits: Bits) -> Position {
        let Position { at, pending, count } = position;
        let pending = pending | bits.bits << count;
        let count = count + u32::from(bits.count);
        if let Some(word) = self.bytes.get_mut(at..at + size_of::<u64>()) {
            word.copy_from_slice(&pending.to_le_bytes());
        }
        let whole = count / 8;
        Position {
            at: at + whole as usize,
            pending: pending >> (8 * whole),
            count: count % 8,
        }
    }

    /// Writes at most 56 bits, likewise.
    pub(super) fn write(&mut self, bits: Bits) {
        let position = self.with_room_for(1);
        self.position = self.write_at(position, bits);
    }

    /// At most 32 bits, likewise.
    pub(super) fn put(&mut self, bits: u32, count: u8) {
        self.write(Bits::lowest(bits, count.into()));
    }

    pub(super) fn finish(self) {
        let Position { at, pending, count } = self.position;
        self.bytes.truncate(at);
        let left = usize::try_from(count.div_ceil(8)).unwrap_or_default();
        self.bytes.extend(pending.to_le_bytes().iter().take(left));
    }
}

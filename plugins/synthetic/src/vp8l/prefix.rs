//! Prefix codes as lossless WebP has them, and the bits they are written in.

/// Longest prefix code of the format; those of code lengths are at most 7.
const LONGEST_CODE: u8 = 15;
const LONGEST_LENGTH_CODE: u8 = 7;
/// In which order the lengths of the code for code lengths stand.
const LENGTH_ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// A canonical prefix code.
pub(super) struct Code {
    /// 0 for symbols that do not occur.
    lengths: Vec<u8>,
    /// Length and bits as they are written; of no length when only one symbol occurs.
    entries: Vec<(u8, u16)>,
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
            Some(_) => vec![(0, 0); counts.len()],
            None => canonical(&lengths),
        };
        Self {
            lengths,
            entries,
            only,
        }
    }

    /// Writes a symbol.
    #[inline]
    pub(super) fn put(&self, writer: &mut BitWriter<'_>, symbol: usize) {
        if let Some(&(length, bits)) = self.entries.get(symbol) {
            writer.write(u32::from(bits), length);
        }
    }

    /// In bits, for all that it codes.
    pub(super) fn cost(&self, counts: &[u32]) -> usize {
        counts
            .iter()
            .zip(&self.entries)
            .map(|(count, (length, _))| *count as usize * usize::from(*length))
            .sum()
    }

    /// Writes the code itself.
    pub(super) fn write(&self, writer: &mut BitWriter<'_>) {
        if let Some(symbol) = self.only
            && symbol < 256
        {
            write_only_symbol(writer, u32::try_from(symbol).unwrap_or_default());
            return;
        }
        writer.write(0, 1);
        let tokens = run_lengths(&self.lengths);
        let mut counts = [0_u32; 19];
        for (symbol, _, _) in &tokens {
            if let Some(count) = counts.get_mut(*symbol) {
                *count += 1;
            }
        }
        let code = Self::no_longer_than(LONGEST_LENGTH_CODE, &counts);
        // All nineteen lengths: four, and so many more.
        writer.write(15, 4);
        for symbol in LENGTH_ORDER {
            let length = code.lengths.get(symbol).copied().unwrap_or_default();
            writer.write(u32::from(length), 3);
        }
        // The lengths of the whole alphabet follow.
        writer.write(0, 1);
        for (symbol, bits, extra) in tokens {
            code.put(writer, symbol);
            writer.write(extra, bits);
        }
    }
}

/// The short form of a code, for one symbol: of one bit where that holds it, else of eight.
pub(super) fn write_only_symbol(writer: &mut BitWriter<'_>, symbol: u32) {
    let (form, bits) = if symbol < 2 { (0b001, 1) } else { (0b101, 8) };
    writer.write(form, 3);
    writer.write(symbol, bits);
}

/// Code lengths as the format packs them: runs of zeros by 17 and 18, all others one by one.
fn run_lengths(lengths: &[u8]) -> Vec<(usize, u8, u32)> {
    let mut tokens = Vec::new();
    for run in lengths.chunk_by(|one, next| one == next) {
        let length = run.first().copied().unwrap_or_default();
        let mut left = run.len();
        while length == 0 && left >= 3 {
            let taken = left.min(138);
            let (symbol, bits, least) = if taken < 11 { (17, 3, 3) } else { (18, 7, 11) };
            let extra = u32::try_from(taken - least).unwrap_or_default();
            tokens.push((symbol, bits, extra));
            left -= taken;
        }
        tokens.extend(std::iter::repeat_n((usize::from(length), 0, 0), left));
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
fn canonical(lengths: &[u8]) -> Vec<(u8, u16)> {
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
                (length, u16::try_from(turned).unwrap_or_default())
            }
            _ => (0, 0),
        })
        .collect()
}

/// Bits, the lowest first.
pub(super) struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    pending: u64,
    count: u8,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self {
            bytes,
            pending: 0,
            count: 0,
        }
    }

    /// At most 32 bits; those above `count` must be zero.
    #[inline]
    pub(super) fn write(&mut self, bits: u32, count: u8) {
        self.pending |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            let [a, b, c, d, ..] = self.pending.to_le_bytes();
            self.bytes.extend_from_slice(&[a, b, c, d]);
            self.pending >>= 32;
            self.count -= 32;
        }
    }

    pub(super) fn finish(self) {
        let rest = usize::from(self.count.div_ceil(8));
        self.bytes
            .extend(self.pending.to_le_bytes().into_iter().take(rest));
    }
}

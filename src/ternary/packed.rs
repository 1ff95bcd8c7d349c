//! A vector of trits at 2 bits each, in host memory.

use crate::error::{Error, Result};
use crate::numerics::pack::{set_level, trit, words};
use crate::numerics::reduce::{dot_words, nonzero_words};
use crate::op::length;

/// A balanced ternary digit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(i8)]
pub enum Trit {
    /// -1.
    N = -1,
    /// 0.
    #[default]
    Z = 0,
    /// +1.
    P = 1,
}

impl Trit {
    /// -1, 0 or 1.
    #[must_use]
    pub const fn value(self) -> i8 {
        self as i8
    }

    /// The trit of -1, 0 or 1.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for any other number.
    pub fn from_value(value: i32) -> Result<Self> {
        match value {
            -1 => Ok(Trit::N),
            0 => Ok(Trit::Z),
            1 => Ok(Trit::P),
            _ => Err(Error::Parameter { name: "trit", got: f64::from(value), requirement: "-1, 0 or 1" }),
        }
    }
}

impl From<Trit> for i8 {
    fn from(t: Trit) -> i8 {
        t.value()
    }
}

impl std::ops::Neg for Trit {
    type Output = Trit;
    fn neg(self) -> Trit {
        match self {
            Trit::N => Trit::P,
            Trit::Z => Trit::Z,
            Trit::P => Trit::N,
        }
    }
}

impl std::fmt::Display for Trit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Trit::N => "-",
            Trit::Z => "0",
            Trit::P => "+",
        })
    }
}

/// Trits packed as planes ([`crate::numerics::pack`]): pairs of u32, plus then minus, 32 trits each.
///
/// # Examples
///
/// ```
/// use trigrad::{PackedTritVec, Trit};
/// let mut v = PackedTritVec::new(100);
/// v.set(0, Trit::P);
/// v.set(50, Trit::N);
/// assert_eq!((v.get(0), v.get(1), v.get(50)), (Trit::P, Trit::Z, Trit::N));
/// assert_eq!((v.len(), v.count_nonzero(), v.words().len()), (100, 2, 8));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PackedTritVec {
    words: Vec<u32>,
    len: usize,
}

impl PackedTritVec {
    /// `len` zeros. Where memory does not suffice the process ends, as with any vector; [`try_new`](Self::try_new)
    /// returns instead.
    #[must_use]
    pub fn new(len: usize) -> Self {
        PackedTritVec { words: vec![0; words(len, 2)], len }
    }

    /// `len` zeros.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] where the host has no memory for them.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::PackedTritVec;
    /// assert_eq!(PackedTritVec::try_new(3)?, PackedTritVec::new(3));
    /// assert!(PackedTritVec::try_new(usize::MAX).is_err());
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn try_new(len: usize) -> Result<Self> {
        let n = words(len, 2);
        let mut words = Vec::new();
        words.try_reserve_exact(n).map_err(|_| Error::OutOfMemory {
            device: "cpu".to_owned(),
            asked: (n as u64).saturating_mul(size_of::<u32>() as u64),
            free: None,
        })?;
        words.resize(n, 0);
        Ok(PackedTritVec { words, len })
    }

    /// Trits packed.
    #[must_use]
    pub fn from_trits(trits: &[Trit]) -> Self {
        let mut v = PackedTritVec::new(trits.len());
        for (i, &t) in trits.iter().enumerate() {
            v.set(i, t);
        }
        v
    }

    /// Planes taken as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless there are `2 ceil(len / 32)` words; [`Error::InvalidTrits`] where both bits of a trit
    /// are set, or a bit past the end.
    pub fn from_words(planes: Vec<u32>, len: usize) -> Result<Self> {
        length("words", words(len, 2), planes.len())?;
        let (mut count, mut first) = (0, None);
        for (k, pair) in planes.chunks_exact(2).enumerate() {
            let inside = u32::MAX >> (32 - (len - 32 * k).min(32));
            let invalid = (pair[0] & pair[1]) | ((pair[0] | pair[1]) & !inside);
            count += u64::from(invalid.count_ones());
            if invalid != 0 {
                first = first.or(Some(32 * k as u64 + u64::from(invalid.trailing_zeros())));
            }
        }
        match first {
            Some(first) => Err(Error::InvalidTrits { count, first }),
            None => Ok(PackedTritVec { words: planes, len }),
        }
    }

    /// The number of trits.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Trit `i`. Past the end it is [`Trit::Z`], as the bits there are.
    #[must_use]
    pub fn get(&self, i: usize) -> Trit {
        if i >= self.len {
            return Trit::Z;
        }
        match trit(&self.words, i) {
            Some(1) => Trit::P,
            Some(-1) => Trit::N,
            _ => Trit::Z,
        }
    }

    /// Sets trit `i`. Past the end there is nothing to set, and nothing happens; [`try_set`](Self::try_set) says so.
    pub fn set(&mut self, i: usize, value: Trit) {
        if i < self.len {
            set_level(&mut self.words, 2, i, i32::from(value.value()));
        }
    }

    /// Sets trit `i`.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] past the end.
    pub fn try_set(&mut self, i: usize, value: Trit) -> Result<()> {
        if i >= self.len {
            return Err(Error::Index { what: "trit", index: i as u64, count: self.len as u64 });
        }
        self.set(i, value);
        Ok(())
    }

    /// The trits one by one.
    pub fn iter(&self) -> impl Iterator<Item = Trit> + '_ {
        (0..self.len).map(|i| self.get(i))
    }

    /// The trits as -1, 0 and 1.
    #[must_use]
    pub fn to_i8_vec(&self) -> Vec<i8> {
        self.iter().map(Trit::value).collect()
    }

    /// The planes.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Trits that are not zero.
    #[must_use]
    pub fn count_nonzero(&self) -> usize {
        self.words.chunks_exact(2).map(|w| nonzero_words([w[0], w[1]]) as usize).sum()
    }

    /// The dot product of the trits.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] where the lengths differ.
    pub fn dot(&self, other: &PackedTritVec) -> Result<i64> {
        length("trits", self.len, other.len)?;
        let pairs = self.words.chunks_exact(2).zip(other.words.chunks_exact(2));
        Ok(pairs.map(|(a, b)| i64::from(dot_words([a[0], a[1]], [b[0], b[1]]))).sum())
    }
}

//! Thrift's compact protocol, in which Parquet writes its footer and its page headers
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>).
//!
//! Nothing here allocates, and the work is at most in proportion to the bytes: a list cannot
//! have more elements than there are bytes left.

/// Structs within structs; Parquet's own go to six.
const DEPTH_MAX: u32 = 16;

/// Bytes not read yet.
#[derive(Clone, Copy)]
pub(super) struct Thrift<'a> {
    rest: &'a [u8],
    depth: u32,
}

/// What follows a field's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThriftKind {
    True,
    False,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
    Uuid,
}

/// The value of a field, for as long as it has not been read.
pub(super) struct ThriftValue<'t, 'a> {
    thrift: &'t mut Thrift<'a>,
    kind: ThriftKind,
}

impl<'a> Thrift<'a> {
    /// The beginning of a struct.
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest, depth: 0 }
    }

    /// How many bytes have not been read.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Reads a struct, and passes each field with its number to `visit`. `None` if it is malformed, or
    /// `visit` says so.
    pub(super) fn fields(
        &mut self,
        visit: &mut dyn FnMut(i64, ThriftValue<'_, 'a>) -> Option<()>,
    ) -> Option<()> {
        self.deeper()?;
        let mut field = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                self.depth -= 1;
                return Some(());
            }
            field = match head >> 4 {
                0 => self.integer()?,
                step => field.checked_add(i64::from(step))?,
            };
            let kind = ThriftKind::parse(head & 0x0f)?;
            visit(field, ThriftValue { thrift: self, kind })?;
        }
    }

    fn deeper(&mut self) -> Option<()> {
        self.depth += 1;
        (self.depth <= DEPTH_MAX).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let zigzag = self.unsigned()?;
        Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    fn length(&mut self) -> Option<usize> {
        let length = usize::try_from(self.unsigned()?).ok()?;
        (length <= self.rest.len()).then_some(length)
    }

    fn list(&mut self) -> Option<(ThriftKind, usize)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.length()?,
            short => usize::from(short),
        };
        // Some writers give the elements of an empty list no type.
        let kind = match (count, ThriftKind::parse(head & 0x0f)) {
            (0, None) => ThriftKind::Byte,
            (_, kind) => kind?,
        };
        (count <= self.rest.len()).then_some((kind, count))
    }

    fn skip(&mut self, kind: ThriftKind) -> Option<()> {
        match kind {
            ThriftKind::True | ThriftKind::False => Some(()),
            ThriftKind::Byte => self.bytes(1).map(drop),
            ThriftKind::Integer => self.unsigned().map(drop),
            ThriftKind::Double => self.bytes(8).map(drop),
            ThriftKind::Uuid => self.bytes(16).map(drop),
            ThriftKind::Binary => {
                let length = self.length()?;
                self.bytes(length).map(drop)
            }
            ThriftKind::Struct => self.fields(&mut |_, value| value.skip()),
            ThriftKind::List => {
                self.deeper()?;
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind))?;
                self.depth -= 1;
                Some(())
            }
            ThriftKind::Map => {
                self.deeper()?;
                let count = self.length()?;
                if 0 < count {
                    let kinds = self.byte()?;
                    let (key, value) = (
                        ThriftKind::parse(kinds >> 4)?,
                        ThriftKind::parse(kinds & 0x0f)?,
                    );
                    for _ in 0..count {
                        self.skip_element(key)?;
                        self.skip_element(value)?;
                    }
                }
                self.depth -= 1;
                Some(())
            }
        }
    }

    /// As [`Self::skip`], but a boolean that is not a field takes one byte.
    fn skip_element(&mut self, kind: ThriftKind) -> Option<()> {
        match kind {
            ThriftKind::True | ThriftKind::False => self.skip(ThriftKind::Byte),
            ThriftKind::Byte
            | ThriftKind::Integer
            | ThriftKind::Double
            | ThriftKind::Binary
            | ThriftKind::List
            | ThriftKind::Map
            | ThriftKind::Struct
            | ThriftKind::Uuid => self.skip(kind),
        }
    }
}

impl<'a> ThriftValue<'_, 'a> {
    /// Skips it.
    pub(super) fn skip(self) -> Option<()> {
        self.thrift.skip(self.kind)
    }

    /// An integer of any width but a byte.
    pub(super) fn integer(self) -> Option<i64> {
        if self.kind != ThriftKind::Integer {
            return None;
        }
        self.thrift.integer()
    }

    /// An integer that counts something.
    pub(super) fn count(self) -> Option<u64> {
        u64::try_from(self.integer()?).ok()
    }

    /// A boolean.
    pub(super) fn boolean(self) -> Option<bool> {
        matches!(self.kind, ThriftKind::True | ThriftKind::False)
            .then_some(self.kind == ThriftKind::True)
    }

    /// A text.
    pub(super) fn text(self) -> Option<&'a str> {
        if self.kind != ThriftKind::Binary {
            return None;
        }
        let length = self.thrift.length()?;
        str::from_utf8(self.thrift.bytes(length)?).ok()
    }

    /// A struct.
    pub(super) fn fields(
        self,
        visit: &mut dyn FnMut(i64, ThriftValue<'_, 'a>) -> Option<()>,
    ) -> Option<()> {
        if self.kind != ThriftKind::Struct {
            return None;
        }
        self.thrift.fields(visit)
    }

    /// A list of structs: `each` reads one of them.
    pub(super) fn structs(
        self,
        each: &mut dyn FnMut(ThriftValue<'_, 'a>) -> Option<()>,
    ) -> Option<()> {
        if self.kind != ThriftKind::List {
            return None;
        }
        let (kind, count) = self.thrift.list()?;
        if kind != ThriftKind::Struct && 0 < count {
            return None;
        }
        for _ in 0..count {
            each(ThriftValue {
                thrift: &mut *self.thrift,
                kind: ThriftKind::Struct,
            })?;
        }
        Some(())
    }
}

impl ThriftKind {
    fn parse(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::True,
            2 => Self::False,
            3 => Self::Byte,
            4..=6 => Self::Integer,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            13 => Self::Uuid,
            _ => return None,
        })
    }
}

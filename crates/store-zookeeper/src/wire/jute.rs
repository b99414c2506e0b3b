//! The encoding of the protocol: big-endian numbers, lengths before texts.

/// Larger than anything of ours; a length beyond it is no length.
pub(crate) const LARGEST: usize = 64 << 20;

#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn int(&mut self, value: i32) -> &mut Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn long(&mut self, value: i64) -> &mut Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn flag(&mut self, value: bool) -> &mut Writer {
        self.0.push(u8::from(value));
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Writer {
        self.int(i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Writer {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn raw(&mut self, encoded: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(encoded);
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// With its own length before it, as it goes over the wire.
    pub(crate) fn into_frame(self) -> Vec<u8> {
        let mut frame = Writer::default();
        frame.bytes(&self.0);
        frame.0
    }
}

/// The answer is not what the protocol says.
#[derive(Debug)]
pub(crate) struct Malformed;

pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn int(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(i32::from_be_bytes(bytes))
    }

    pub(crate) fn long(&mut self) -> Result<i64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(i64::from_be_bytes(bytes))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        Ok(self.take(1)?[0] != 0)
    }

    /// No value at all, which has the length -1, is an empty one.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.int(-7).long(1 << 40).flag(true).bytes(&[0, 255]).text("größe").bytes(&[]);
        let bytes = writer.into_bytes();
        let mut reader = Reader(&bytes);
        assert_eq!((reader.int().unwrap(), reader.long().unwrap()), (-7, 1 << 40));
        assert!(reader.flag().unwrap());
        assert_eq!(reader.bytes().unwrap(), &[0, 255]);
        assert_eq!(reader.text().unwrap(), "größe");
        assert_eq!(reader.bytes().unwrap(), b"");
        assert!(reader.int().is_err());
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for text in [&[0, 0, 0, 9, 1][..], &[0xff, 0xff, 0xff, 0xfe], &[0, 0]] {
            assert!(Reader(text).bytes().is_err(), "{text:?}");
        }
        assert_eq!(Reader(&[0xff; 4]).bytes().unwrap(), b"");
    }
}

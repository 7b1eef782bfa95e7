//! Little-endian u32 words and counted texts.

/// Reads words and texts from a request.
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        if n > self.bytes.len() {
            return Err("the request is too short".to_string());
        }
        let (head, tail) = self.bytes.split_at(n);
        self.bytes = tail;
        Ok(head)
    }

    pub fn word(&mut self) -> Result<u32, String> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A length in bytes, then that many bytes of UTF-8.
    pub fn text(&mut self) -> Result<&'a str, String> {
        let n = self.word()? as usize;
        std::str::from_utf8(self.take(n)?).map_err(|e| format!("the text is {e}"))
    }

    pub fn rest(self) -> Vec<u32> {
        self.bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }
}

/// Builds an answer.
pub struct Words {
    bytes: Vec<u8>,
}

impl Words {
    pub fn new() -> Self {
        Words { bytes: Vec::new() }
    }

    pub fn push(&mut self, word: usize) {
        self.bytes.extend_from_slice(&(word as u32).to_le_bytes());
    }

    pub fn extend(&mut self, words: &[u32]) {
        for w in words {
            self.bytes.extend_from_slice(&w.to_le_bytes());
        }
    }

    /// A length in bytes, then the text.
    pub fn text(&mut self, s: &str) {
        self.push(s.len());
        self.bytes.extend_from_slice(s.as_bytes());
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

//! Which questions the server has not answered yet, as the bytes that go by tell it.
//!
//! The frames are those of <https://www.postgresql.org/docs/current/protocol-message-formats.html>: the start-up message and
//! each `Query`, `Sync` and `FunctionCall` is answered by exactly one `ReadyForQuery`, whatever goes wrong in between. So
//! several may be on their way at once, and the answer to the first says nothing about the last. (COPY would be an
//! exception: while it reads, the server ignores `Sync`. It is not used here.)

/// What is asked and what is answered, in plain text.
#[derive(Debug, Default)]
pub struct Answers {
    asked: Frames,
    answered: Frames,
    begun: bool,
    open: u64,
}

const READY_FOR_QUERY: u8 = b'Z';

impl Answers {
    /// These bytes were written.
    pub fn asked(&mut self, mut bytes: &[u8]) {
        if !self.begun && !bytes.is_empty() {
            self.begun = true;
            // The one frame without a type: as if it had one.
            self.asked.take(b"S", |_| ());
        }
        let open = &mut self.open;
        while !bytes.is_empty() {
            let taken = self.asked.take(bytes, |kind| *open += u64::from(matches!(kind, b'Q' | b'S' | b'F')));
            bytes = &bytes[taken..];
        }
    }

    /// These bytes came.
    pub fn answered(&mut self, mut bytes: &[u8]) {
        let open = &mut self.open;
        while !bytes.is_empty() {
            let taken = self.answered.take(bytes, |kind| *open = open.saturating_sub(u64::from(kind == READY_FOR_QUERY)));
            bytes = &bytes[taken..];
        }
    }

    /// Whether something is asked that is not answered whole.
    pub fn are_due(&self) -> bool {
        self.open > 0
    }
}

/// A stream of frames, cut anywhere: a type, a length that counts itself but not the type, and so many bytes.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 5],
    has: usize,
    left: usize,
}

impl Frames {
    /// Takes what belongs to one part of a frame, and says so when a frame is there whole. Gives how much it took.
    fn take(&mut self, bytes: &[u8], mut whole: impl FnMut(u8)) -> usize {
        if self.has < self.head.len() {
            let taken = bytes.len().min(self.head.len() - self.has);
            self.head[self.has..self.has + taken].copy_from_slice(&bytes[..taken]);
            self.has += taken;
            if self.has == self.head.len() {
                let [_, length @ ..] = self.head;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX).saturating_sub(4);
                self.end(&mut whole);
            }
            return taken;
        }
        let taken = bytes.len().min(self.left);
        self.left -= taken;
        self.end(&mut whole);
        taken
    }

    fn end(&mut self, whole: &mut impl FnMut(u8)) {
        if self.left == 0 {
            self.has = 0;
            whole(self.head[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    #[test]
    fn the_answer_to_the_first_of_two_questions_leaves_one_open() {
        let mut answers = Answers::default();
        answers.asked(&frame(b'p', b"")[1..]);
        assert!(answers.are_due(), "the start-up message");
        answers.answered(&[frame(b'R', &[0; 4]), frame(b'S', b"a\0b\0"), frame(b'Z', b"I")].concat());
        assert!(!answers.are_due());
        answers
            .asked(&[frame(b'Q', b"BEGIN\0"), frame(b'P', b"Z"), frame(b'B', b""), frame(b'E', b""), frame(b'S', b"")].concat());
        answers.answered(&frame(b'Z', b"T"));
        assert!(answers.are_due());
        // Told unasked, with what looks like an answer in it.
        answers.answered(&frame(b'A', &frame(b'Z', b"I")));
        assert!(answers.are_due());
        answers.answered(&frame(b'Z', b"T"));
        assert!(!answers.are_due());
        answers.asked(&frame(b'X', b""));
        assert!(!answers.are_due(), "nobody answers a farewell");
    }

    proptest! {
        #[test]
        fn they_are_counted_however_the_bytes_are_cut(
            kinds in prop::collection::vec((prop::sample::select(b"QSFPBEX".to_vec()), prop::collection::vec(any::<u8>(), 0..9)), 0..20),
            replies in prop::collection::vec((prop::sample::select(b"ZDCTNA".to_vec()), prop::collection::vec(any::<u8>(), 0..9)), 0..20),
            cut in 1_usize..7,
        ) {
            let mut answers = Answers::default();
            let start = frame(b'S', b"start");
            let asked: Vec<u8> = kinds.iter().flat_map(|(kind, body)| frame(*kind, body)).collect();
            let answered: Vec<u8> = replies.iter().flat_map(|(kind, body)| frame(*kind, body)).collect();
            for piece in [&start[1..], &asked].concat().chunks(cut) {
                answers.asked(piece);
            }
            let questions = 1 + kinds.iter().filter(|(kind, _)| b"QSF".contains(kind)).count() as u64;
            prop_assert_eq!(answers.open, questions);
            for piece in answered.chunks(cut) {
                answers.answered(piece);
            }
            let ready = replies.iter().filter(|(kind, _)| *kind == b'Z').count() as u64;
            prop_assert_eq!(answers.open, questions.saturating_sub(ready));
        }
    }
}

//! Batches: what SQS takes in one call, and the answers of several calls as one list, in the order that was asked.

use crate::queue::{QueueError, ToSend};
use crate::task::id::sha256;
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most messages in one call, of every operation.
pub(super) const ENTRIES: usize = 10;

/// Most bytes of one batch where the queue says nothing else: what every queue takes.
pub(super) const BYTES: usize = 256 << 10;

/// Calls under way at once for one list: enough to hide the way there and back, and few enough not to be throttled for it.
pub(super) const PARALLEL: usize = 4;

/// Longest id by which SQS drops repeats, or group in which it keeps order.
const MAX_NAME: usize = 128;

/// One answer per entry.
pub(super) type Answers = Vec<Result<(), QueueError>>;

/// Entries of batches, each batch at most [`ENTRIES`] long and at most `bytes` large by `size`.
pub(super) fn pieces<T>(entries: Vec<T>, bytes: usize, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut pieces, mut piece, mut filled) = (Vec::new(), Vec::new(), 0_usize);
    for entry in entries {
        let more = size(&entry);
        if !piece.is_empty() && (piece.len() == ENTRIES || filled.saturating_add(more) > bytes) {
            pieces.push(std::mem::take(&mut piece));
            filled = 0;
        }
        filled = filled.saturating_add(more);
        piece.push(entry);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// Makes a call for each piece, `at_once` of them at a time. A call that failed is the answer of each of its entries, unless all failed.
pub(super) async fn answered<T, A>(pieces: Vec<Vec<T>>, at_once: usize, call: impl Fn(Vec<T>) -> A) -> Result<Answers, QueueError>
where
    A: Future<Output = Result<Answers, QueueError>>,
{
    let calls = stream::iter(pieces).map(|piece| {
        let (entries, call) = (piece.len(), call(piece));
        async move { (entries, call.await) }
    });
    let called: Vec<(usize, Result<Answers, QueueError>)> = calls.buffered(at_once).collect().await;
    let mut answers = Vec::new();
    let mut failed = None;
    let mut any = called.is_empty();
    for (entries, answer) in called {
        match answer {
            Ok(some) => {
                any = true;
                answers.extend(some);
            }
            Err(error) => {
                answers.extend(std::iter::repeat_n(Err(error.clone()), entries));
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if !any => Err(error),
        _ => Ok(answers),
    }
}

/// The answers to one batch, whose entries have their places as ids.
pub(super) fn in_order<'a>(
    entries: usize,
    successful: impl Iterator<Item = &'a str>,
    failed: impl Iterator<Item = (&'a str, QueueError)>,
) -> Answers {
    let mut told: BTreeMap<String, Result<(), QueueError>> = successful.map(|id| (id.to_owned(), Ok(()))).collect();
    told.extend(failed.map(|(id, error)| (id.to_owned(), Err(error))));
    let silent = || Err(QueueError::Unavailable("an entry of a batch was not answered".into()));
    (0..entries).map(|place| told.remove(&place.to_string()).unwrap_or_else(silent)).collect()
}

/// Why a queue that takes `max` bytes will never take this message, if so.
pub(super) fn refusal(message: &ToSend, max: usize) -> Option<QueueError> {
    let size = message.body.len();
    if size == 0 {
        return Some(QueueError::Invalid("SQS takes no empty body".into()));
    }
    if size > max {
        return Some(QueueError::Invalid(format!(
            "a body of {size} bytes is over the queue's limit of {max}; put what is large in storage"
        )));
    }
    let (at, character) = message.body.char_indices().find(|(_, character)| !is_taken(*character))?;
    Some(QueueError::Invalid(format!("SQS does not take the character U+{:04X}, which stands at byte {at} of the body", character as u32)))
}

/// The characters of XML 1.0, which is what SQS takes.
fn is_taken(character: char) -> bool {
    !matches!(character, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

/// A name as SQS takes it; one that it would not take is replaced by its hash.
pub(super) fn name(text: &str) -> String {
    let fits = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { text.to_owned() } else { sha256(text.as_bytes()) }
}

/// SQS counts in whole seconds: rounded up, so that nothing comes too early, and zero stays zero.
pub(super) fn seconds(time: Duration, max: Duration) -> i32 {
    let whole = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    i32::try_from(whole.min(max.as_secs())).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_batch_is_bounded_in_number_and_bytes() {
        let sizes = |entries: Vec<usize>| pieces(entries, 100, |size| *size).into_iter().map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(sizes(vec![1; 25]), [10, 10, 5]);
        assert_eq!(sizes(vec![60, 40, 1, 99, 100, 1]), [2, 2, 1, 1]);
        assert_eq!(sizes(vec![200, 1]), [1, 1], "what is too large alone is alone");
        assert_eq!(sizes(Vec::new()), [0; 0]);
    }

    #[tokio::test]
    async fn answers_keep_their_order_and_a_failed_call_is_that_of_its_entries() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let call = |piece: Vec<u32>| {
            let (now, most) = (&now, &most);
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(u64::from(10 - piece[0]))).await;
                now.fetch_sub(1, Ordering::SeqCst);
                if piece.contains(&3) { Err(QueueError::Unavailable("3".into())) } else { Ok(vec![Ok(()); piece.len()]) }
            }
        };
        let answers = answered(vec![vec![0, 1], vec![2, 3], vec![4], vec![5]], 2, call).await.unwrap();
        let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
        assert_eq!((failed, most.into_inner()), (vec![false, false, true, true, false, false], 2));
        let all = answered(vec![vec![3], vec![3]], 2, |_: Vec<u32>| async { Err(QueueError::Denied("no".into())) }).await;
        assert_eq!(all, Err(QueueError::Denied("no".into())));
        assert_eq!(answered(Vec::<Vec<u32>>::new(), 2, |_| async { Ok(Vec::new()) }).await, Ok(Vec::new()));
    }

    #[test]
    fn an_entry_without_an_answer_is_tried_again() {
        let failed = [("2", QueueError::Invalid("bad".into()))];
        let answers = in_order(3, ["0"].into_iter(), failed.into_iter());
        assert!(matches!(answers.as_slice(), [Ok(()), Err(QueueError::Unavailable(_)), Err(QueueError::Invalid(_))]), "{answers:?}");
    }

    #[test]
    fn what_sqs_never_takes_is_refused_here() {
        let refused = |body: &str| refusal(&crate::queue::conformance::message(body), 20);
        for body in ["", "x\0", "\u{1b}[0m", "\u{fffe}", "a\u{ffff}", &"x".repeat(21)] {
            assert!(matches!(refused(body), Some(QueueError::Invalid(_))), "{body:?}");
        }
        for body in ["x", "\t\r\n", "\u{7f}\u{fffd}\u{10ffff}", &"x".repeat(20)] {
            assert_eq!(refused(body), None, "{body:?}");
        }
        let Some(QueueError::Invalid(text)) = refused("ab\0") else { panic!("refused") };
        assert!(text.contains("U+0000") && text.contains("byte 2"), "{text}");
        let Some(QueueError::Invalid(text)) = refused(&"x".repeat(21)) else { panic!("refused") };
        assert!(text.contains("storage"), "{text}");
    }

    #[test]
    fn names_and_times_are_as_sqs_takes_them() {
        assert_eq!(name("task-1.x"), "task-1.x");
        assert!([String::new(), "ä".into(), "a b".into(), "x".repeat(129)].iter().all(|text| name(text).len() == 64));
        let rounded = |ms| seconds(Duration::from_millis(ms), Duration::from_secs(900));
        assert_eq!([rounded(0), rounded(1), rounded(1000), rounded(1001), rounded(10_000_000)], [0, 1, 1, 2, 900]);
    }
}

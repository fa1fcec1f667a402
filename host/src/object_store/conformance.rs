//! One suite for every adapter of [`ObjectStore`], below a fresh and empty prefix per case. What is particular to one adapter is tested
//! beside it.

use super::*;
use std::collections::BTreeSet;

/// Runs every case below a prefix of its own. `$fresh` is an async expression: a store, the prefix, and whatever has to be kept; or
/// none, where the server is missing and the test has said so.
macro_rules! suite {
    ($fresh:expr) => {
        $crate::object_store::conformance::suite!(@cases $fresh;
            what_is_written_is_read_until_it_is_replaced_or_deleted,
            what_is_missing_says_so,
            a_limit_refuses_before_reading,
            a_stream_hands_out_every_byte_once,
            an_object_that_changes_is_never_read_as_a_mix,
            an_unfinished_writer_leaves_nothing,
            large_objects_are_whole,
            publishing_moves_and_writes_and_can_be_repeated,
            the_last_item_waits_for_all_others,
            large_objects_are_published,
            many_items_are_published,
            a_list_is_in_order_and_of_what_lies_below,
            a_prefix_is_deleted_and_nothing_beside_it,
            odd_names_lead_back_to_their_objects,
            racing_writers_leave_one_whole_object,
            a_prefix_is_no_object,
        );
    };
    (@cases $fresh:expr; $($case:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let Some((store, prefix, _keep)) = $fresh.await else { return };
            $crate::object_store::conformance::$case(&store, &prefix).await;
        })+
    };
}
pub(super) use suite;

/// A mebibyte.
const MIB: usize = 1 << 20;

fn at(prefix: &Uri, name: &str) -> Uri {
    prefix.join(name).unwrap()
}

/// Bytes in which no two places look alike, so that a part that is missing, doubled or misplaced shows.
fn patterned(size: usize) -> Vec<u8> {
    let words = (0_u64..).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(size).collect()
}

/// Compares without printing megabytes.
fn assert_same(left: &[u8], right: &[u8], what: &str) {
    assert!(left == right, "{what}: {} bytes came of {}, or others", left.len(), right.len());
}

async fn drain(mut reader: Box<dyn ObjectReader>, piece: usize) -> Result<Vec<u8>, ObjectError> {
    let mut all = Vec::new();
    loop {
        let came = reader.read(piece).await?;
        if came.is_empty() {
            return Ok(all);
        }
        assert!(came.len() <= piece);
        all.extend(came);
    }
}

async fn names(store: &dyn ObjectStore, prefix: &Uri) -> Vec<String> {
    let listed = store.list(prefix).await.unwrap();
    listed.iter().map(|meta| meta.uri.as_str().strip_prefix(prefix.as_str()).unwrap().to_owned()).collect()
}

fn bytes(prefix: &Uri, name: &str, text: &str) -> Publish {
    Publish { from: Source::Bytes(text.into()), to: at(prefix, name) }
}

fn object(from: &Uri, prefix: &Uri, name: &str) -> Publish {
    Publish { from: Source::Object(from.clone()), to: at(prefix, name) }
}

pub async fn what_is_written_is_read_until_it_is_replaced_or_deleted(store: &dyn ObjectStore, prefix: &Uri) {
    let uri = at(prefix, "a/b/c.json");
    for text in ["hello", "hello again", "", "less"] {
        store.put(&uri, text.as_bytes()).await.unwrap();
        assert_eq!(store.get(&uri, 100).await.unwrap(), text.as_bytes());
        assert_eq!(store.head(&uri).await.unwrap(), Some(ObjectMeta { uri: uri.clone(), size: text.len() as u64 }));
    }
    store.delete(&uri).await.unwrap();
    assert_eq!(store.head(&uri).await.unwrap(), None);
}

pub async fn what_is_missing_says_so(store: &dyn ObjectStore, prefix: &Uri) {
    let uri = at(prefix, "nothing.bin");
    assert_eq!(store.head(&uri).await.unwrap(), None);
    for error in [store.get(&uri, 1).await.err(), store.open(&uri).await.err()] {
        assert!(matches!(&error, Some(ObjectError::NotFound(text)) if text.contains("nothing.bin")), "{error:?}");
    }
    store.delete(&uri).await.unwrap();
    store.delete_prefix(&at(prefix, "nowhere/")).await.unwrap();
    assert_eq!(store.list(&at(prefix, "nowhere/")).await.unwrap(), []);
}

pub async fn a_limit_refuses_before_reading(store: &dyn ObjectStore, prefix: &Uri) {
    let uri = at(prefix, "x");
    store.put(&uri, &patterned(1000)).await.unwrap();
    assert_eq!(store.get(&uri, 1000).await.unwrap().len(), 1000);
    let refused = store.get(&uri, 999).await.unwrap_err();
    assert!(matches!(&refused, ObjectError::TooLarge { size: 1000, limit: 999, uri: told } if told.ends_with("/x")), "{refused:?}");
}

pub async fn a_stream_hands_out_every_byte_once(store: &dyn ObjectStore, prefix: &Uri) {
    for (size, piece) in [(0, 10), (1, 1), (10, 3), (200_000, 7_001), (3 * MIB + 1, usize::MAX)] {
        let (uri, written) = (at(prefix, &format!("{size}")), patterned(size));
        store.put(&uri, &written).await.unwrap();
        let reader = store.open(&uri).await.unwrap();
        assert_eq!(reader.size(), Some(size as u64));
        assert_same(&drain(reader, piece).await.unwrap(), &written, &format!("{size} by {piece}"));
    }
}

pub async fn an_object_that_changes_is_never_read_as_a_mix(store: &dyn ObjectStore, prefix: &Uri) {
    let uri = at(prefix, "changing");
    let (old, new) = (vec![1; 6 * MIB], vec![2; 6 * MIB]);
    store.put(&uri, &old).await.unwrap();
    let mut reader = store.open(&uri).await.unwrap();
    let mut read = reader.read(MIB).await.unwrap();
    store.put(&uri, &new).await.unwrap();
    match drain(reader, MIB).await {
        Ok(rest) => {
            read.extend(rest);
            assert_same(&read, &old, "what was opened");
        }
        Err(error) => assert!(matches!(error, ObjectError::Unavailable(_)), "{error:?}"),
    }
    assert_same(&drain(store.open(&uri).await.unwrap(), MIB).await.unwrap(), &new, "what is there");
}

pub async fn an_unfinished_writer_leaves_nothing(store: &dyn ObjectStore, prefix: &Uri) {
    let uri = at(prefix, "x/y");
    for written in [0, 1000, 17 * MIB] {
        let mut writer = store.create(&uri).await.unwrap();
        writer.write(&patterned(written)).await.unwrap();
        assert_eq!(store.head(&uri).await.unwrap(), None, "nothing is seen before the end");
        drop(writer);
        assert_eq!(names(store, prefix).await, [""; 0], "{written}");
    }
    let mut writer = store.create(&uri).await.unwrap();
    for piece in ["wh", "", "ole"] {
        writer.write(piece.as_bytes()).await.unwrap();
    }
    writer.finish().await.unwrap();
    assert_eq!(store.get(&uri, 10).await.unwrap(), b"whole");
    let empty = store.create(&at(prefix, "empty")).await.unwrap();
    empty.finish().await.unwrap();
    assert_eq!(store.get(&at(prefix, "empty"), 10).await.unwrap(), b"");
}

/// Sizes around the one from which an adapter may write in parts.
pub async fn large_objects_are_whole(store: &dyn ObjectStore, prefix: &Uri) {
    for size in [8 * MIB, 9 * MIB, 17 * MIB + 1] {
        let (put, streamed, written) = (at(prefix, "put"), at(prefix, "streamed"), patterned(size));
        store.put(&put, &written).await.unwrap();
        let mut writer = store.create(&streamed).await.unwrap();
        for piece in written.chunks(1_234_567) {
            writer.write(piece).await.unwrap();
        }
        writer.finish().await.unwrap();
        for uri in [put, streamed] {
            assert_eq!(store.head(&uri).await.unwrap().unwrap().size, size as u64);
            assert_same(&store.get(&uri, size as u64).await.unwrap(), &written, &format!("{uri} of {size}"));
        }
    }
}

pub async fn publishing_moves_and_writes_and_can_be_repeated(store: &dyn ObjectStore, prefix: &Uri) {
    let (scratch, staged) = (at(prefix, "_attempts/1/"), at(prefix, "_attempts/1/000001"));
    store.put(&staged, b"big").await.unwrap();
    let items =
        || vec![bytes(prefix, "result.json", "small"), object(&staged, prefix, "deep/big.bin"), bytes(prefix, "metrics.json", "{}")];
    store.put(&at(prefix, "deep/big.bin"), b"of another attempt").await.unwrap();
    store.publish(items(), &scratch).await.unwrap();
    assert_eq!(names(store, prefix).await, ["deep/big.bin", "metrics.json", "result.json"], "a source is gone afterwards");
    assert_eq!(store.get(&at(prefix, "deep/big.bin"), 9).await.unwrap(), b"big");
    let again = store.publish(items(), &scratch).await.unwrap_err();
    assert!(matches!(&again, ObjectError::NotFound(text) if text.contains("000001")), "{again:?}");
    store.put(&staged, b"big").await.unwrap();
    store.publish(items(), &scratch).await.unwrap();
    assert_eq!(names(store, prefix).await.len(), 3);
    store.publish(Vec::new(), &scratch).await.unwrap();
    store.delete_prefix(&scratch).await.unwrap();
}

pub async fn the_last_item_waits_for_all_others(store: &dyn ObjectStore, prefix: &Uri) {
    let scratch = at(prefix, "_attempts/1/");
    let items = vec![
        bytes(prefix, "first", "1"),
        object(&at(&scratch, "lost"), prefix, "second"),
        bytes(prefix, "third", "3"),
        bytes(prefix, "last", "4"),
    ];
    let error = store.publish(items, &scratch).await.unwrap_err();
    assert!(matches!(&error, ObjectError::NotFound(text) if text.contains("lost")), "{error:?}");
    let there: BTreeSet<String> = names(store, prefix).await.into_iter().collect();
    assert!(there.contains("first") && !there.contains("second") && !there.contains("last"), "{there:?}");
}

pub async fn large_objects_are_published(store: &dyn ObjectStore, prefix: &Uri) {
    let (scratch, staged, written) = (at(prefix, "_attempts/1/"), at(prefix, "_attempts/1/000001"), patterned(17 * MIB + 1));
    store.put(&staged, &written).await.unwrap();
    let from_memory = Publish { from: Source::Bytes(written.clone()), to: at(prefix, "memory.bin") };
    store.publish(vec![object(&staged, prefix, "big.bin"), from_memory], &scratch).await.unwrap();
    for name in ["big.bin", "memory.bin"] {
        assert_same(&store.get(&at(prefix, name), u64::MAX).await.unwrap(), &written, name);
    }
    assert_eq!(names(store, prefix).await, ["big.bin", "memory.bin"]);
}

pub async fn many_items_are_published(store: &dyn ObjectStore, prefix: &Uri) {
    let scratch = at(prefix, "_attempts/1/");
    let mut items = Vec::new();
    for n in 0..25 {
        let (name, staged) = (format!("{n:02}"), at(&scratch, &format!("{n:02}")));
        if n % 2 == 0 {
            store.put(&staged, name.as_bytes()).await.unwrap();
            items.push(object(&staged, prefix, &name));
        } else {
            items.push(bytes(prefix, &name, &name));
        }
    }
    store.publish(items, &scratch).await.unwrap();
    assert_eq!(names(store, prefix).await, (0..25).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    for name in names(store, prefix).await {
        assert_eq!(store.get(&at(prefix, &name), 9).await.unwrap(), name.as_bytes());
    }
}

pub async fn a_list_is_in_order_and_of_what_lies_below(store: &dyn ObjectStore, prefix: &Uri) {
    let mut written = Vec::new();
    for n in [7, 3, 0, 9, 1, 8, 2, 6, 5, 4] {
        for name in [format!("a/{n}"), format!("a/deep/{n}"), format!("a-{n}"), format!("ab/{n}")] {
            store.put(&at(prefix, &name), &patterned(n)).await.unwrap();
            written.push(name);
        }
    }
    written.sort();
    assert_eq!(names(store, prefix).await, written);
    let listed = store.list(&at(prefix, "a/")).await.unwrap();
    assert_eq!(listed.len(), 20);
    assert!(listed.iter().all(|meta| meta.uri.file_name() == meta.size.to_string()), "{listed:?}");
    assert_eq!(store.list(&at(prefix, "a")).await.unwrap(), listed, "a prefix without its slash is the same");
}

pub async fn a_prefix_is_deleted_and_nothing_beside_it(store: &dyn ObjectStore, prefix: &Uri) {
    for n in 0..10 {
        for name in [format!("a/{n}"), format!("a/deep/{n}"), format!("ab/{n}")] {
            store.put(&at(prefix, &name), b"x").await.unwrap();
        }
    }
    store.delete_prefix(&at(prefix, "a/")).await.unwrap();
    assert_eq!(names(store, prefix).await, (0..10).map(|n| format!("ab/{n}")).collect::<Vec<_>>());
    let refused = store.delete_prefix(&at(prefix, "ab")).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Invalid(_)), "{refused:?}");
    assert_eq!(names(store, prefix).await.len(), 10);
}

pub async fn odd_names_lead_back_to_their_objects(store: &dyn ObjectStore, prefix: &Uri) {
    let odd = ["a b", "a+b", "a&b=c", "~t", "ä/ö/日本.txt", "e\u{301}", "😀.bin", "'q'\"<x>", "(1)*!,;:@$", "a..b", ".hidden", "[x]{y}|^`"];
    let scratch = at(prefix, "_attempts/1/");
    for name in odd {
        let (uri, staged) = (at(prefix, name), at(&scratch, name));
        store.put(&uri, name.as_bytes()).await.unwrap();
        assert_eq!(store.get(&uri, 100).await.unwrap(), name.as_bytes());
        store.put(&staged, name.as_bytes()).await.unwrap();
        store.publish(vec![object(&staged, prefix, &format!("out/{name}"))], &scratch).await.unwrap();
        assert_eq!(store.get(&at(prefix, &format!("out/{name}")), 100).await.unwrap(), name.as_bytes());
    }
    let there: BTreeSet<String> = names(store, prefix).await.into_iter().collect();
    assert_eq!(there, odd.iter().flat_map(|name| [(*name).to_owned(), format!("out/{name}")]).collect());
    for name in odd {
        store.delete(&at(prefix, name)).await.unwrap();
    }
    store.delete_prefix(&at(prefix, "out/")).await.unwrap();
    assert_eq!(names(store, prefix).await, [""; 0]);
}

pub async fn racing_writers_leave_one_whole_object(store: &dyn ObjectStore, prefix: &Uri) {
    let uri = at(prefix, "contested");
    let written: Vec<Vec<u8>> = (0..4_u8).map(|n| vec![n; 100_000 + usize::from(n) * 4 * MIB]).collect();
    // One that is overtaken at its very end may not know what became of it.
    let known = |ended: Result<(), ObjectError>| assert!(matches!(ended, Ok(()) | Err(ObjectError::Unavailable(_))), "{ended:?}");
    let one = async |n: usize| {
        for _ in 0..2 {
            known(store.put(&uri, &written[n]).await);
            let mut writer = store.create(&uri).await.unwrap();
            writer.write(&written[n]).await.unwrap();
            known(writer.finish().await);
        }
    };
    let look = async || {
        for _ in 0..20 {
            // One that is replaced while it is read may be an error.
            if let Ok(read) = store.get(&uri, u64::MAX).await {
                assert!(written.contains(&read), "{} bytes that nobody wrote", read.len());
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::join!(one(0), one(1), one(2), one(3), look());
    assert!(written.contains(&store.get(&uri, u64::MAX).await.unwrap()));
    assert_eq!(names(store, prefix).await, ["contested"]);
}

pub async fn a_prefix_is_no_object(store: &dyn ObjectStore, prefix: &Uri) {
    let refused = store.put(&at(prefix, "a/"), b"").await.unwrap_err();
    assert!(matches!(refused, ObjectError::Invalid(_)), "{refused:?}");
    assert_eq!(names(store, prefix).await, [""; 0]);
}

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn body(
    bytes: &[u8],
    piece: usize,
) -> impl Stream<Item = std::result::Result<Bytes, Infallible>> + Unpin + use<> {
    let pieces: Vec<Bytes> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
    futures_util::stream::iter(pieces.into_iter().map(Ok))
}

/// Everything that is in an archive, or the first failure.
async fn read_all(bytes: &[u8], piece: usize) -> Result<Vec<(String, EntryKind, Vec<u8>)>> {
    let mut archive = Archive::open(body(bytes, piece)).await?;
    let mut found = Vec::new();
    while let Some(entry) = archive.next().await? {
        let (path, kind) = (entry.path.clone(), entry.kind.clone());
        found.push((path, kind, entry.read("a file", 1 << 20).await?));
    }
    archive.finish().await?;
    Ok(found)
}

async fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tokio_tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tokio_tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes.as_slice()).await.expect("memory takes all bytes");
    }
    tar.into_inner().await.expect("memory takes all bytes")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

proptest! {
    #[test]
    fn what_went_into_an_archive_comes_out_of_it(
        files in prop::collection::btree_map("[a-z]{1,120}/[a-z]{1,120}", prop::collection::vec(any::<u8>(), 0..3000), 0..6),
        piece in 1..2000usize,
    ) {
        let files: Vec<(String, Vec<u8>)> = files.into_iter().collect();
        let found = runtime().block_on(async { read_all(&tar(&files).await, piece).await }).expect("a good archive");
        let expected: Vec<_> =
            files.into_iter().map(|(path, bytes)| (path, EntryKind::File, bytes)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..3000), magic in 0..4usize, piece in 1..700usize,
    ) {
        let magic: &[u8] = [&b""[..], b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"a\0"][magic];
        bytes.splice(..0, magic.iter().copied());
        let _ = runtime().block_on(read_all(&bytes, piece));
    }

    #[test]
    fn a_damaged_archive_never_panics_nor_goes_on_for_ever(at in 0..2048usize, byte in any::<u8>()) {
        runtime().block_on(async {
            let mut bytes = tar(&[("a/b".to_owned(), vec![7; 600]), ("c".to_owned(), vec![8; 10])]).await;
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = read_all(&bytes, 333).await;
        });
    }
}

#[tokio::test]
async fn a_file_that_nobody_reads_is_passed_over() {
    let files = [("a".to_owned(), vec![1; 3 << 20]), ("b".to_owned(), vec![2; 5])];
    let bytes = tar(&files).await;
    let mut archive = Archive::open(body(&bytes, 10_000)).await.expect("an archive");
    assert_eq!(archive.next().await.expect("good").expect("the first").size, 3 << 20);
    let second = archive.next().await.expect("good").expect("the second");
    assert_eq!(second.read("a file", 10).await.expect("its bytes"), [2; 5]);
    assert!(archive.next().await.expect("good").is_none());
    archive.finish().await.expect("its end");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_from_an_archive_that_does() {
    let bytes = tar(&[("a".to_owned(), vec![1; 5000])]).await;
    let broken = [Ok(Bytes::copy_from_slice(&bytes[..2000])), Err("connection lost")];
    let mut archive = Archive::open(futures_util::stream::iter(broken)).await.expect("it begins well");
    let entry = archive.next().await.expect("good").expect("an entry");
    let failed = entry.read("a file", 10_000).await.expect_err("half of it is not there");
    assert!(matches!(failed, Error::Invalid(_)), "{failed}");
    let cut = read_all(&bytes[..2000], 100).await.expect_err("half of it is not there");
    assert!(matches!(cut, Error::Unprocessable(_)), "{cut}");
}

//! Claims about server-streaming calls, against a server made of `h2` on the other end of a pipe.

use bytes::{BufMut as _, BytesMut};
use h2::server;
use http::{HeaderMap, HeaderValue, Response};
use proptest::prelude::*;
use tokio::io::DuplexStream;
use tokio::task::JoinSet;

use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct Word {
    #[prost(string, tag = "1")]
    word: String,
}

fn word(text: &str) -> Word {
    Word { word: text.into() }
}

/// What the server does, one after the other.
enum Act {
    Send(Bytes),
    End(&'static str, &'static str),
    Break,
}

/// Answers the one call of the connection by these acts, then holds it open until the client is gone.
fn serve(tasks: &mut JoinSet<()>, io: DuplexStream, acts: Vec<Act>) {
    tasks.spawn(async move {
        let mut connection = server::handshake(io).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(request.headers()["te"], "trailers");
        let mut out = respond.send_response(Response::new(()), false).unwrap();
        for act in acts {
            match act {
                Act::Send(bytes) => out.send_data(bytes, false).unwrap(),
                Act::End(code, message) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(code));
                    trailers.insert("grpc-message", HeaderValue::from_static(message));
                    out.send_trailers(trailers).unwrap();
                }
                Act::Break => {
                    // Flushes what was sent, then goes without a word.
                    std::future::poll_fn(|context| {
                        drop(connection.poll_closed(context));
                        std::task::Poll::Ready(())
                    })
                    .await;
                    return;
                }
            }
        }
        while connection.accept().await.is_some() {}
    });
}

async fn asked(tasks: &mut JoinSet<()>, acts: Vec<Act>) -> Answers<DuplexStream, Word> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    serve(tasks, theirs, acts);
    Answers::ask(ours, "/room.Service/Words", &word("please"))
        .await
        .unwrap()
}

#[tokio::test]
async fn answers_come_one_by_one_and_a_good_end_is_an_end() {
    let mut tasks = JoinSet::new();
    let both = [frame(&word("b")), frame(&word("c"))].concat();
    let (head, tail) = both.split_at(9);
    let acts = vec![
        Act::Send(frame(&word("a"))),
        Act::Send(Bytes::copy_from_slice(head)),
        Act::Send(Bytes::copy_from_slice(tail)),
        Act::End("0", ""),
    ];
    let mut answers = asked(&mut tasks, acts).await;
    for expected in ["a", "b", "c"] {
        assert_eq!(answers.next().await.unwrap(), Some(word(expected)));
    }
    assert_eq!(answers.next().await.unwrap(), None);
}

#[tokio::test]
async fn an_answer_is_there_although_the_one_before_was_not_waited_for_to_the_end() {
    let mut tasks = JoinSet::new();
    let mut answers = asked(&mut tasks, vec![Act::Send(frame(&word("late")))]).await;
    let impatient = futures_util::FutureExt::now_or_never(answers.next());
    assert!(impatient.is_none(), "nothing was served yet");
    assert_eq!(answers.next().await.unwrap(), Some(word("late")));
}

#[tokio::test]
async fn a_refusal_after_answers_is_told_with_its_code() {
    let mut tasks = JoinSet::new();
    let acts = vec![
        Act::Send(frame(&word("a"))),
        Act::End("7", "not an authorized delegate"),
    ];
    let mut answers = asked(&mut tasks, acts).await;
    assert_eq!(answers.next().await.unwrap(), Some(word("a")));
    let error = answers.next().await.unwrap_err();
    assert!(
        matches!(&error, CallError::Refused { code, message } if code == "7" && message.contains("delegate")),
        "{error}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_error_after_what_came_before() {
    let mut tasks = JoinSet::new();
    let mut answers = asked(&mut tasks, vec![Act::Send(frame(&word("a"))), Act::Break]).await;
    assert_eq!(answers.next().await.unwrap(), Some(word("a")));
    for _ in 0..2 {
        let error = answers.next().await.unwrap_err();
        assert!(matches!(error, CallError::Connection(_)), "{error}");
    }
}

#[tokio::test]
async fn a_message_that_is_cut_off_or_too_long_or_compressed_is_refused() {
    let mut too_long = BytesMut::new();
    too_long.put_u8(0);
    too_long.put_u32(u32::try_from(MAX_ANSWER).unwrap() + 1);
    let cut = frame(&word("abc")).slice(..6);
    for (bytes, expected) in [
        (too_long.freeze(), "larger than"),
        (Bytes::from_static(&[1, 0, 0, 0, 0]), "cannot be read"),
        (cut, "cannot be read"),
    ] {
        let mut tasks = JoinSet::new();
        let mut answers = asked(&mut tasks, vec![Act::Send(bytes), Act::End("0", "")]).await;
        let error = answers.next().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn messages_are_the_same_however_they_are_cut(
        words in proptest::collection::vec("[a-z]{0,300}", 0..8),
        cuts in proptest::collection::vec(1_usize..64, 1..8),
    ) {
        let whole: Bytes = words.iter().flat_map(|text| frame(&word(text))).collect::<Vec<_>>().into();
        let (mut pieces, mut rest, mut read) = (Pieces::default(), whole, Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let mut chunk = rest.split_to((*cut).min(rest.len()));
            while let Some(message) = pieces.take(&mut chunk).unwrap() {
                read.push(Word::decode(message.as_slice()).unwrap().word);
            }
            prop_assert!(chunk.is_empty());
        }
        prop_assert!(pieces.is_empty());
        prop_assert_eq!(read, words);
    }

    #[test]
    fn any_bytes_are_messages_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut pieces, mut chunk) = (Pieces::default(), Bytes::from(bytes));
        while let Ok(Some(_)) = pieces.take(&mut chunk) {}
    }
}

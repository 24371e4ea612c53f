use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Stream};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::host::probe::Round;

/// A server that gives each connection to `answer`, with the question that was read from it. It
/// tells of each whether the asker let go of it.
fn serve(answer: impl Fn(&str, &mut Stream) + Send + 'static) -> (SocketAddr, Receiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            answer(&question(&mut stream), &mut stream);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let closed = match stream.read(&mut [0; 1]) {
                Ok(length) => length == 0,
                Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
            };
            if tell.send(closed).is_err() {
                return;
            }
        }
    });
    (address, told)
}

fn question(stream: &mut Stream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        text.push(char::from(byte[0]));
    }
    text
}

/// What is found at `path` within `time`, with every connection closed afterwards.
async fn found_within(
    time: Duration,
    path: &str,
    answer: impl Fn(&str, &mut Stream) + Send + 'static,
) -> Result<(), String> {
    let (address, closed) = serve(answer);
    let url: HttpUrl = format!("http://{address}{path}").parse().unwrap();
    let connections = Cell::new(0);
    let asking = ask(&url, |address| {
        connections.set(connections.get() + 1);
        TcpStream::connect(address)
    });
    let found = Round::of(time).have("it does not answer", asking).await;
    for _ in 0..connections.get() {
        assert!(closed.recv_timeout(Duration::from_secs(10)).unwrap(), "a connection is left");
    }
    found.map_err(|why| why.replace(&address.port().to_string(), "PORT"))
}

async fn found(
    path: &str,
    answer: impl Fn(&str, &mut Stream) + Send + 'static,
) -> Result<(), String> {
    found_within(Duration::from_secs(5), path, answer).await
}

/// Writes until nobody reads any more.
fn pour(stream: &mut Stream, bytes: &[u8]) {
    while stream.write_all(bytes).is_ok() {}
}

fn head(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn it_asks_plainly_and_any_success_will_do() {
    for status in ["200 OK", "204 No Content", "299 Fine"] {
        let answered = found("/health?deep=1", move |question, stream| {
            let lines: Vec<_> = question.lines().map(str::to_ascii_lowercase).collect();
            let agent = format!("user-agent: shoal-agent/{}", env!("CARGO_PKG_VERSION"));
            let host = format!("host: {}", stream.local_addr().unwrap());
            let wanted = ["get /health?deep=1 http/1.1", &agent, &host, "connection: close"];
            let good = wanted.iter().all(|line| lines.iter().any(|l| l == line));
            let answer = if good { head(status) } else { head(&format!("400 {question:?}")) };
            stream.write_all(answer.as_bytes()).unwrap();
        });
        assert_eq!(answered.await, Ok(()), "{status}");
    }
}

#[tokio::test]
async fn a_bad_status_is_told_with_the_first_of_its_page() {
    let why = found("/", |_, stream| {
        let answer = "HTTP/1.1 503 x\r\nConnection: close\r\n\r\nno database\r\n\x1b]0;at\x07 all";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let told =
        "http://127.0.0.1:PORT/ answers with 503 Service Unavailable: no database   ]0;at  all";
    assert_eq!(why.await.unwrap_err(), told);
    for (status, told) in
        [("404 x", "404 Not Found"), ("799 x", "799"), ("304 x", "304 Not Modified")]
    {
        let why = found("/", move |_, stream| stream.write_all(head(status).as_bytes()).unwrap());
        assert_eq!(why.await.unwrap_err(), format!("http://127.0.0.1:PORT/ answers with {told}"));
    }
}

#[tokio::test]
async fn nobody_there_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url: HttpUrl = format!("http://{address}/").parse().unwrap();
    let why = ask(&url, TcpStream::connect::<SocketAddr>).await.unwrap_err();
    assert!(why.starts_with(&format!("{url} does not accept: Connection refused")), "{why}");
}

#[tokio::test]
async fn redirects_on_the_spot_are_followed() {
    let answered = found("/a/b?x", |question, stream| {
        let own = stream.local_addr().unwrap();
        let answer = match question.split(' ').nth(1).unwrap() {
            "/a/b?x" => redirect("c"),
            "/a/c" => redirect("?y#part"),
            "/a/c?y" => redirect("/d"),
            "/d" => redirect(&format!("http://{own}/e#part")),
            "/e" => redirect(&format!("http://{own}")),
            "/" => head("200 OK"),
            other => head(&format!("404 {other}")),
        };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    assert_eq!(answered.await, Ok(()));
}

#[tokio::test]
async fn redirects_for_ever_are_not() {
    for location in ["/", "", "x"] {
        let why = found("/", move |_, stream| {
            stream.write_all(redirect(location).as_bytes()).unwrap();
        });
        let told = "http://127.0.0.1:PORT/ redirects more than 5 times";
        assert_eq!(why.await.unwrap_err(), told, "{location:?}");
    }
}

#[tokio::test]
async fn redirects_to_elsewhere_are_told_and_not_followed() {
    for location in [
        "http://127.0.0.1:1/",
        "https://127.0.0.1/",
        "http://localhost/",
        "//127.0.0.1/x",
        "mailto:x@y",
        "/a b",
        "/\u{e4}",
    ] {
        let why = found("/", move |_, stream| {
            stream.write_all(redirect(location).as_bytes()).unwrap();
        });
        let why = why.await.unwrap_err();
        assert!(why.contains(&format!("redirects to {location:?}")), "{location}: {why}");
        assert!(why.contains("`exec`"), "{why}");
    }
    let why = found("/", |_, stream| {
        stream.write_all(redirect(&"x".repeat(7000)).as_bytes()).unwrap();
    });
    assert!(why.await.unwrap_err().len() < 600);
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_a_bad_status() {
    let why = found("/", |_, stream| stream.write_all(head("301 x").as_bytes()).unwrap());
    assert!(why.await.unwrap_err().ends_with("answers with 301 Moved Permanently"));
}

#[tokio::test]
async fn a_server_that_hangs_costs_no_more_than_the_time_given() {
    let silent = |_: &str, stream: &mut Stream| drop(stream.read(&mut [0; 1]));
    let why = found_within(Duration::from_millis(200), "/", silent).await.unwrap_err();
    assert_eq!(why, "it does not answer within 200ms");
    let half = |_: &str, stream: &mut Stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
        drop(stream.read(&mut [0; 1]));
    };
    let why = found_within(Duration::from_millis(200), "/", half).await.unwrap_err();
    assert_eq!(why, "it does not answer within 200ms");
}

#[tokio::test]
async fn a_page_without_end_is_not_read_to_its_end() {
    let good = found("/", |_, stream| {
        pour_after(stream, "HTTP/1.1 200 OK\r\n\r\n");
    });
    assert_eq!(good.await, Ok(()));
    let bad = found("/", |_, stream| pour_after(stream, "HTTP/1.1 500 x\r\n\r\n"));
    let bad = bad.await.unwrap_err();
    assert!(bad.contains("500 Internal Server Error: xxxx") && bad.len() < 400, "{bad}");
    let slow = found("/", |_, stream| {
        stream.write_all(b"HTTP/1.1 500 x\r\n\r\nfirst ").unwrap();
        drop(stream.read(&mut [0; 1]));
    });
    assert!(slow.await.unwrap_err().ends_with("500 Internal Server Error: first"));
    let chunks = found("/", |_, stream| {
        stream.write_all(b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        pour(stream, b"1\r\ny\r\n");
    });
    assert!(chunks.await.unwrap_err().contains("yyyy"));
}

fn pour_after(stream: &mut Stream, head: &str) {
    stream.write_all(head.as_bytes()).unwrap();
    pour(stream, &[b'x'; 65536]);
}

#[tokio::test]
async fn headers_without_end_are_not_read_to_their_end() {
    let long = found("/", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
        pour(stream, &[b'x'; 65536]);
    });
    let told = "http://127.0.0.1:PORT/ does not answer in sound HTTP: message head is too large";
    assert_eq!(long.await.unwrap_err(), told);
    let many = found("/", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        pour(stream, b"A: b\r\n");
    });
    assert_eq!(many.await.unwrap_err(), told);
}

#[tokio::test]
async fn interim_answers_for_ever_end_with_the_time() {
    let interim = |_: &str, stream: &mut Stream| {
        while stream.write_all(b"HTTP/1.1 102 x\r\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    let why = found_within(Duration::from_millis(300), "/", interim).await.unwrap_err();
    assert_eq!(why, "it does not answer within 300ms");
}

#[tokio::test]
async fn what_is_not_http_is_told() {
    for garbage in
        ["SSH-2.0-OpenSSH_9.2\r\n", "\0\x01\x02\x03\x04\x05\x06\x07", "HTTP/9.9 x\r\n\r\n"]
    {
        let why = found("/", move |_, stream| stream.write_all(garbage.as_bytes()).unwrap());
        let why = why.await.unwrap_err();
        assert!(why.contains("does not answer in sound HTTP"), "{garbage:?}: {why}");
    }
    let gone = found("/", |_, _| {});
    let told = "http://127.0.0.1:PORT/ closes the connection without an answer";
    assert_eq!(gone.await.unwrap_err(), told);
}

#[tokio::test]
async fn a_path_that_http_has_no_words_for_is_told() {
    let why = found("/<x>", |_, _| {}).await.unwrap_err();
    assert_eq!(why, "http://127.0.0.1:PORT/<x> can't be asked for: invalid uri character");
}

#[test]
fn the_host_header_leaves_out_the_usual_port() {
    for (address, host) in
        [("10.0.0.1:80", "10.0.0.1"), ("10.0.0.1:8080", "10.0.0.1:8080"), ("[::1]:80", "[::1]")]
    {
        let page = Page { address: address.parse().unwrap(), path: "/".into() };
        assert_eq!(page.host(), host);
    }
}

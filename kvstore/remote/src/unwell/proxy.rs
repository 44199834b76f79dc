//! A small HTTP proxy that makes trouble. Each connection carries one request, so that trouble hits one of them only.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is reset before anything is answered.
    Reset,
    /// The connection is closed before anything is answered.
    Close,
    /// Nothing is answered, and the connection stays.
    Stall,
    /// Something else answers: a status line's code and reason, headers, a body.
    Answer(&'static str, &'static str, &'static str),
    /// The answer ends after so many bytes of its body.
    Truncate(usize),
    /// The connection is reset after so many bytes of the answer's body.
    ResetAfter(usize),
    /// One bit of the answer's body is changed, and nothing else.
    Flip(usize),
    /// The answer comes a few bytes at a time.
    Drip(usize, Duration),
    /// The answer comes late.
    Delay(Duration),
    /// The request is carried out, and its answer is lost.
    Swallow,
}

/// What S3 says of a bucket that is not there. The server takes it for one that is empty.
pub const NO_BUCKET: Trouble =
    Trouble::Answer("404 Not Found", "", "<Error><Code>NoSuchBucket</Code></Error>");

/// Which requests get into trouble.
#[derive(Clone, Debug)]
struct Rule {
    method: &'static str,
    /// What the path has in it.
    path: String,
    trouble: Trouble,
    /// How many of them.
    times: usize,
}

/// What a test says to its proxy, and what it learns.
#[derive(Debug, Default)]
pub struct Talk {
    rules: Mutex<VecDeque<Rule>>,
    requests: Mutex<Vec<String>>,
    /// The server looks whether an object is there, and then writes it: only one may do so at a time.
    writing: tokio::sync::Mutex<()>,
}

impl Talk {
    /// All requests of a method whose path has this in it get into trouble, until [`calm`](Self::calm).
    pub fn trouble(&self, method: &'static str, path: &str, trouble: Trouble) {
        self.trouble_times(method, path, trouble, usize::MAX);
    }

    /// The next few requests do.
    pub fn trouble_times(&self, method: &'static str, path: &str, trouble: Trouble, times: usize) {
        self.rules.lock().unwrap().push_back(Rule {
            method,
            path: path.to_owned(),
            trouble,
            times,
        });
    }

    /// No more trouble.
    pub fn calm(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// Method and path of each request so far with this in it.
    pub fn requests(&self, with: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.contains(with))
            .cloned()
            .collect()
    }

    fn next_trouble(&self, method: &str, path: &str) -> Option<Trouble> {
        self.requests.lock().unwrap().push(format!("{method} {path}"));
        let mut rules = self.rules.lock().unwrap();
        let fits = |rule: &&mut Rule| {
            rule.times > 0 && (rule.method.is_empty() || rule.method == method) && path.contains(&rule.path)
        };
        let rule = rules.iter_mut().find(fits)?;
        rule.times -= 1;
        Some(rule.trouble.clone())
    }
}

/// Passes requests on to `upstream` until it is dropped.
pub(super) async fn serve(listener: TcpListener, upstream: SocketAddr, talk: Arc<Talk>) {
    while let Ok((client, _)) = listener.accept().await {
        let talk = talk.clone();
        // A connection that breaks is what this is for.
        tokio::spawn(async move { drop(exchange(client, upstream, &talk).await) });
    }
}

async fn exchange(mut client: TcpStream, upstream: SocketAddr, talk: &Talk) -> io::Result<()> {
    let (head, mut body) = read_head(&mut client).await?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let trouble = talk.next_trouble(method, path);
    match &trouble {
        Some(Trouble::Reset) => return reset(&client),
        Some(Trouble::Close) => return Ok(()),
        Some(Trouble::Stall) => {
            // Until the client gives up.
            while client.read(&mut vec![0; 4096]).await? > 0 {}
            return Ok(());
        }
        _ => {}
    }
    let wanted = content_length(&head);
    while body.len() < wanted {
        let mut piece = vec![0; 64 << 10];
        let bytes = client.read(&mut piece).await?;
        if bytes == 0 {
            return Ok(());
        }
        body.extend_from_slice(&piece[..bytes]);
    }
    if let Some(Trouble::Answer(status, headers, text)) = trouble {
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{text}"
        );
        return client.write_all(answer.as_bytes()).await;
    }
    let alone = if method == "PUT" {
        Some(talk.writing.lock().await)
    } else {
        None
    };
    let answer = ask(upstream, &head, &body).await?;
    drop(alone);
    reply(client, answer, trouble).await
}

/// Passes one request on and reads the answer to its end.
async fn ask(upstream: SocketAddr, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream).await?;
    let lines = head.trim_end().split("\r\n");
    let kept = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut request: Vec<u8> = kept.flat_map(|line| [line, "\r\n"]).collect::<String>().into();
    request.extend_from_slice(b"connection: close\r\n\r\n");
    request.extend_from_slice(body);
    server.write_all(&request).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn reply(mut client: TcpStream, mut answer: Vec<u8>, trouble: Option<Trouble>) -> io::Result<()> {
    let body_at = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map_or(answer.len(), |at| at + 4);
    match trouble {
        Some(Trouble::Swallow) => reset(&client),
        Some(Trouble::Truncate(bytes)) => {
            client
                .write_all(&answer[..answer.len().min(body_at + bytes)])
                .await
        }
        Some(Trouble::ResetAfter(bytes)) => {
            client
                .write_all(&answer[..answer.len().min(body_at + bytes)])
                .await?;
            client.flush().await?;
            // So that the bytes before it arrive.
            tokio::time::sleep(Duration::from_millis(50)).await;
            reset(&client)
        }
        Some(Trouble::Drip(bytes, every)) => {
            for piece in answer.chunks(bytes) {
                client.write_all(piece).await?;
                tokio::time::sleep(every).await;
            }
            Ok(())
        }
        Some(Trouble::Delay(by)) => {
            tokio::time::sleep(by).await;
            client.write_all(&answer).await
        }
        Some(Trouble::Flip(at)) => {
            if let Some(byte) = answer.get_mut(body_at + at) {
                *byte ^= 0x20;
            }
            client.write_all(&answer).await
        }
        _ => client.write_all(&answer).await,
    }
}

/// Ends a connection so that the other side sees it was not in peace.
fn reset(client: &TcpStream) -> io::Result<()> {
    client.set_zero_linger()
}

async fn read_head(client: &mut TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(at + 4);
            return Ok((bytes, body));
        }
        let mut piece = vec![0; 16 << 10];
        let count = client.read(&mut piece).await?;
        if count == 0 || bytes.len() > 1 << 20 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

fn content_length(head: &str) -> usize {
    let mut lengths = head.split("\r\n").filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    lengths.next().unwrap_or(0)
}

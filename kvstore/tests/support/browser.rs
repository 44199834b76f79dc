//! A headless Chromium that is told what to do over its own protocol.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::eventually;

/// It answers at once; this only ends a test that would hang.
const WATCHDOG: Duration = Duration::from_mins(1);

/// A running browser with one page. It ends with its owner.
pub(crate) struct Browser {
    child: Child,
    orders: ChildStdin,
    heard: Receiver<Value>,
    /// What it said by itself.
    events: Vec<Value>,
    next: u64,
    page: String,
    _profile: tempfile::TempDir,
}

/// Where a Chromium is: `KVTIER_CHROMIUM`, or the first one on the path.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("KVTIER_CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || {
        let places = std::env::split_paths(&path)
            .flat_map(|place| ["chromium", "chromium-browser", "google-chrome"].map(|name| place.join(name)));
        places.into_iter().find(|place| place.is_file())
    };
    named.or_else(on_path)
}

impl Browser {
    /// Starts one with an empty page; none: there is no Chromium.
    pub(crate) fn start() -> Option<Self> {
        let program = program()?;
        let profile = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(profile.path().join("stderr")).unwrap();
        // It takes orders at descriptor 3 and answers at 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"])
            .arg(&program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, heard) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            orders,
            heard,
            events: Vec::new(),
            next: 1,
            page: String::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attach);
        attached["sessionId"]
            .as_str()
            .unwrap()
            .clone_into(&mut browser.page);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// One order and its answer.
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        let id = self.next;
        self.next += 1;
        let mut order = json!({ "id": id, "method": method, "params": parameters });
        if !self.page.is_empty() {
            order["sessionId"] = self.page.clone().into();
        }
        let mut bytes = order.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).unwrap();
        loop {
            let message = self.heard.recv_timeout(WATCHDOG).unwrap_or_else(|error| {
                panic!("no answer to {method}: {error}");
            });
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    pub(crate) fn open(&mut self, url: &str) {
        let answer = self.call("Page.navigate", &json!({ "url": url }));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
    }

    /// What an expression comes to on the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &parameters);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {}",
            answer["exceptionDetails"]
        );
        answer["result"]["value"].clone()
    }

    /// The text of the first element that a selector names; empty if there is none.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let value = self.value(&format!(
            "document.querySelector({selector:?})?.textContent ?? ''"
        ));
        value.as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true.
    pub(crate) fn until(&mut self, expression: &str) {
        eventually(expression, || {
            (self.value(expression) == Value::Bool(true)).then_some(())
        });
    }

    /// Sets the window's width, and whether its user prefers dark pages.
    pub(crate) fn look(&mut self, width: u32, scheme: &str) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Writes a picture of the whole page.
    pub(crate) fn screenshot(&mut self, to: &Path) {
        let parameters = json!({ "captureBeyondViewport": true });
        let answer = self.call("Page.captureScreenshot", &parameters);
        let bytes = BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }

    /// What went wrong on the page so far: exceptions, errors and warnings of the console, requests that failed.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // What it has said by now comes before this answer.
        self.value("0");
        let is_complaint = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                matches!(
                    event["params"]["type"].as_str(),
                    Some("error" | "warning" | "assert")
                )
            }
            Some("Log.entryAdded") => matches!(
                event["params"]["entry"]["level"].as_str(),
                Some("error" | "warning")
            ),
            _ => false,
        };
        let complaints = self.events.iter().filter(is_complaint);
        complaints.map(ToString::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let close = json!({ "id": self.next, "method": "Browser.close" });
        // A browser that has ended already cannot be told to.
        let _ = self.orders.write_all(format!("{close}\0").as_bytes());
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

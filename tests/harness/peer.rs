//! Servers and clients inside the lab: typed handles on the labtool.
//!
//! Must not know: the product.

use crate::answers::Answers;
use crate::netns::Netns;
use crate::process::{Background, Tool, run};
use crate::programs;
use crate::wait::{eventually, millis, seconds};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Starts the HTTP server that answers with `name`, on `port` of every address of the namespace.
///
/// # Errors
/// When it does not come up.
pub fn http_server(ns: &Netns, name: &str, port: u16) -> Result<Tool> {
    Tool::serve(ns, &["http", "--name", name, "--bind", &any(port)])
}

/// A site for health checks, whose answers are changed while it runs.
pub struct Site(Tool);

impl Site {
    /// Serves on `port` of every address of the namespace; it answers 200 and `ok`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(ns: &Netns, port: u16) -> Result<Self> {
        Ok(Self(Tool::serve(ns, &["site", "--bind", &any(port)])?))
    }

    /// The same over TLS, with a certificate and a key in PEM files.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_tls(ns: &Netns, port: u16, cert: &Path, key: &Path) -> Result<Self> {
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let args = ["site", "--bind", &any(port), "--cert", &cert, "--key", &key];
        Ok(Self(Tool::serve(ns, &args)?))
    }

    /// Changes what it answers: `status 503`, `body TEXT`, `hang yes`.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.0.ask(command, seconds(5)).map(drop)
    }

    /// Connections so far, and the requests over them.
    ///
    /// # Errors
    /// When it has ended.
    pub fn count(&mut self) -> Result<(u64, u64)> {
        let value = self.0.ask("count", seconds(5))?;
        let number = |key: &str| value[key].as_u64().with_context(|| format!("no {key}"));
        Ok((number("connections")?, number("requests")?))
    }
}

/// Starts the TCP end of bulk transfers.
///
/// # Errors
/// When it does not come up.
pub fn tcp_sink(ns: &Netns, port: u16) -> Result<Tool> {
    Tool::serve(ns, &["tcp-sink", "--bind", &any(port)])
}

/// Starts the echo server for [`Holder`].
///
/// # Errors
/// When it does not come up.
pub fn hold_server(ns: &Netns, port: u16) -> Result<Tool> {
    Tool::serve(ns, &["hold-server", "--bind", &any(port)])
}

/// Starts the receiving end of [`udp_copy`] on exactly `endpoint`, from which it will answer.
///
/// # Errors
/// When it does not come up.
pub fn udp_copy_server(ns: &Netns, endpoint: &str) -> Result<Tool> {
    Tool::serve(ns, &["udp-copy-server", "--bind", endpoint])
}

/// Starts the UDP server that answers with `name`, on exactly `endpoint`.
///
/// # Errors
/// When it does not come up.
pub fn udp_server(ns: &Netns, name: &str, endpoint: &str) -> Result<Tool> {
    Tool::serve(ns, &["udp-echo", "--name", name, "--bind", endpoint])
}

/// `count` HTTP requests, each on its own connection, four at a time from both CPUs by turns.
///
/// # Errors
/// When the client cannot run; failed requests are counted, not errors.
pub fn get(ns: &Netns, url: &str, count: u32) -> Result<Answers> {
    let count = count.to_string();
    let args = ["get", "--url", url, "--count", &count, "--concurrency", "4", "--cpus", "both"];
    Answers::from_json(&client(ns, &args)?)
}

/// As [`get`], with a deadline of its own for each request.
///
/// # Errors
/// As [`get`].
pub fn get_within(ns: &Netns, url: &str, count: u32, timeout: Duration) -> Result<Answers> {
    let (count, timeout) = (count.to_string(), timeout.as_millis().to_string());
    let args = ["get", "--url", url, "--count", &count, "--timeout-ms", &timeout];
    Answers::from_json(&client(ns, &args)?)
}

/// `count` UDP requests, each from its own socket.
///
/// # Errors
/// When the client cannot run.
pub fn udp_ask(ns: &Netns, endpoint: &str, count: u32) -> Result<Answers> {
    let count = count.to_string();
    Answers::from_json(&client(ns, &["udp-ask", "--to", endpoint, "--count", &count])?)
}

/// A UDP client that asks from one socket, so that all its questions are one connection.
pub struct UdpClient(Tool);

impl UdpClient {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the client cannot run.
    pub fn start(ns: &Netns, endpoint: &str) -> Result<Self> {
        Ok(Self(Tool::serve(ns, &["udp-ask", "--to", endpoint, "--step", "yes"])?))
    }

    /// The name of the server that answers now.
    ///
    /// # Errors
    /// When nobody does.
    pub fn ask(&mut self) -> Result<String> {
        let value = self.0.ask("", seconds(5))?;
        let name = value["answer"].as_str();
        Ok(name.with_context(|| format!("nobody answered: {value}"))?.to_string())
    }
}

/// Starts the receiving end of [`fragments`] on exactly `endpoint`, from which it will answer.
///
/// # Errors
/// When it does not come up.
pub fn fragment_server(ns: &Netns, endpoint: &str) -> Result<Tool> {
    Tool::serve(ns, &["fragment-server", "--bind", endpoint])
}

/// What became of large datagrams that were sent as fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Those that came once, unharmed, and were answered so.
    pub answered: u64,
    /// Answers to others, or that are others.
    pub wrong: u64,
    /// Answers that came again.
    pub repeated: u64,
}

impl Carried {
    /// Whether all of `count` datagrams came once and unharmed, and so did their answers.
    pub fn is_perfect(&self, count: u64) -> bool {
        *self == Self { sent: count, answered: count, wrong: 0, repeated: 0 }
    }
}

/// Sends `count` datagrams of 8 KB as fragments in an order, two at a time.
///
/// # Errors
/// When the client cannot run.
pub fn fragments(ns: &Netns, endpoint: &str, order: &str, count: u64) -> Result<Carried> {
    fragments_with(ns, endpoint, order, count, &[])
}

/// [`fragments`] with other fragments, `--room BYTES` of a datagram in each, or with a fault:
/// `--flip yes` or `--twice yes`.
///
/// # Errors
/// As [`fragments`].
pub fn fragments_with(
    ns: &Netns,
    endpoint: &str,
    order: &str,
    count: u64,
    more: &[&str],
) -> Result<Carried> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (first, count) = (NEXT.fetch_add(count, Ordering::Relaxed).to_string(), count.to_string());
    let args =
        ["fragment-send", "--to", endpoint, "--order", order, "--count", &count, "--first", &first];
    let value = client(ns, &[&args[..], more].concat())?;
    let number = |key: &str| value[key].as_u64().with_context(|| format!("no {key} in {value}"));
    Ok(Carried {
        sent: number("sent")?,
        answered: number("answered")?,
        wrong: number("wrong")?,
        repeated: number("repeated")?,
    })
}

/// The outcome of a bulk transfer.
#[derive(Clone, Debug)]
pub struct Copied {
    /// SHA-256 at the client.
    pub here: String,
    /// SHA-256 at the server.
    pub there: String,
    /// Datagrams that had to be sent again; 0 for TCP.
    pub resent: u64,
}

impl Copied {
    fn from_json(value: &Value) -> Result<Self> {
        let text = |key: &str| {
            let text = value[key].as_str().with_context(|| format!("no {key} in {value}"))?;
            anyhow::Ok(text.to_string())
        };
        let resent = value["resent"].as_u64().unwrap_or(0);
        Ok(Self { here: text("here")?, there: text("there")?, resent })
    }

    /// Passes only if both ends computed the same hash.
    ///
    /// # Errors
    /// With both hashes.
    pub fn equal(&self) -> Result<()> {
        if self.here != self.there || self.here.len() != 64 {
            bail!("SHA-256 differs: {} here, {} there", self.here, self.there);
        }
        Ok(())
    }
}

/// Copies 50 MB over TCP to a [`tcp_sink`].
///
/// # Errors
/// When the transfer breaks.
pub fn tcp_copy(ns: &Netns, endpoint: &str, more: &[&str]) -> Result<Copied> {
    let args = ["tcp-send", "--to", endpoint, "--bytes", "50000000"];
    Copied::from_json(&client(ns, &[&args[..], more].concat())?)
}

/// Copies 5 MB over UDP to a [`udp_copy_server`], one datagram at a time.
///
/// # Errors
/// When the transfer breaks.
pub fn udp_copy(ns: &Netns, endpoint: &str, more: &[&str]) -> Result<Copied> {
    let args = ["udp-copy", "--to", endpoint, "--bytes", "5000000"];
    Copied::from_json(&client(ns, &[&args[..], more].concat())?)
}

/// A download of 50 MB that stops after every tenth until it is let go on.
pub struct SteppedDownload(Tool);

impl SteppedDownload {
    /// Opens it and reads the first tenth.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn start(ns: &Netns, endpoint: &str) -> Result<Self> {
        let args = [
            "tcp-send",
            "--to",
            endpoint,
            "--bytes",
            "50000000",
            "--direction",
            "down",
            "--step",
            "yes",
        ];
        let mut tool = Tool::spawn(ns, &args)?;
        ensure!(tool.json(seconds(15))?["tenth"].is_u64(), "the download did not start");
        Ok(Self(tool))
    }

    /// Reads the next tenth.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn step(&mut self) -> Result<()> {
        let answer = self.0.ask("", seconds(35))?;
        ensure!(answer["tenth"].is_u64(), "the download was not at a tenth: {answer}");
        Ok(())
    }

    /// Reads the rest and compares the hashes.
    ///
    /// # Errors
    /// When the connection breaks or the hashes differ.
    pub fn finish(mut self) -> Result<()> {
        loop {
            let answer = self.0.ask("", seconds(35))?;
            if !answer["tenth"].is_u64() {
                return Copied::from_json(&answer)?.equal();
            }
        }
    }
}

/// Requests in a loop, counted by phases.
pub struct Load(Tool);

impl Load {
    /// Starts two threads that send requests to `url`, each on a connection of its own.
    ///
    /// # Errors
    /// When the client cannot run.
    pub fn start(ns: &Netns, url: &str) -> Result<Self> {
        Ok(Self(Tool::serve(ns, &["load", "--url", url])?))
    }

    /// The same over kept connections: a connection that is lost is a failure.
    ///
    /// # Errors
    /// When the client cannot run.
    pub fn start_keep_alive(ns: &Netns, url: &str) -> Result<Self> {
        Ok(Self(Tool::serve(ns, &["load", "--url", url, "--keep-alive", "yes"])?))
    }

    /// From now on requests count for a new phase.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn mark(&mut self) -> Result<()> {
        self.0.ask("mark", seconds(5)).map(drop)
    }

    /// The answers of the current phase so far.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn count(&mut self) -> Result<Answers> {
        Answers::from_json(&self.0.ask("count", seconds(5))?)
    }

    /// Ends the load; one entry per phase.
    ///
    /// # Errors
    /// When the client does not end.
    pub fn stop(mut self) -> Result<Vec<Answers>> {
        let value = self.0.ask("stop", seconds(15))?;
        let phases = value["phases"].as_array().context("no phases")?;
        phases.iter().map(Answers::from_json).collect()
    }
}

/// A client that holds many connections open.
pub struct Holder(Tool);

/// What [`Holder`] answers to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Connections that are open now.
    pub open: u64,
    /// Opens, closes or round trips of this command that failed.
    pub failed: u64,
    /// Why, one each: `echo: ConnectionReset`.
    pub reasons: Vec<String>,
}

impl Holder {
    /// Starts it with nothing open.
    ///
    /// # Errors
    /// When the client cannot run.
    pub fn start(ns: &Netns, endpoint: &str) -> Result<Self> {
        Self::start_from(ns, endpoint, &[])
    }

    /// The same from these addresses by turns.
    ///
    /// # Errors
    /// When the client cannot run.
    pub fn start_from(ns: &Netns, endpoint: &str, sources: &[IpAddr]) -> Result<Self> {
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        let from = sources.iter().flat_map(|source| ["--from", source]);
        let args: Vec<&str> = ["hold", "--to", endpoint].into_iter().chain(from).collect();
        Ok(Self(Tool::serve(ns, &args)?))
    }

    /// Opens `n` more, 2,000 in all at most; each has echoed.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn open(&mut self, n: usize) -> Result<Held> {
        self.command(&format!("open {n}"))
    }

    /// Closes `n` at random, from the client's side; each has been closed by the server too.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn close(&mut self, n: usize) -> Result<Held> {
        self.command(&format!("close {n}"))
    }

    /// `n` times: opens or closes one, at random.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn churn(&mut self, n: usize) -> Result<Held> {
        self.command(&format!("churn {n}"))
    }

    /// A round trip on every open connection; those that fail are given up.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn echo(&mut self) -> Result<Held> {
        self.command("echo")
    }

    fn command(&mut self, line: &str) -> Result<Held> {
        let value = self.0.ask(line, seconds(120))?;
        let reasons = value["reasons"].as_array().into_iter().flatten();
        Ok(Held {
            open: value["open"].as_u64().context("no open")?,
            failed: value["failed"].as_u64().context("no failed")?,
            reasons: reasons.filter_map(|reason| reason.as_str().map(String::from)).collect(),
        })
    }
}

impl Held {
    /// Passes only if nothing failed.
    ///
    /// # Errors
    /// With the first reason.
    pub fn unbroken(self) -> Result<Self> {
        ensure!(self.failed == 0, "{} failed, first {:?}", self.failed, self.reasons.first());
        Ok(self)
    }
}

/// Megabits a second that iperf3 moves from the client to `address` in two seconds.
///
/// # Errors
/// When iperf3 is missing or cannot connect.
pub fn iperf3(ns: &Netns, address: &str, port: u16) -> Result<f64> {
    let text = ns.run(&format!(
        "timeout 20 iperf3 --client {address} --port {port} --time 2 --json --connect-timeout 3000"
    ))?;
    let value: Value = serde_json::from_str(&text).context("iperf3 printed no JSON")?;
    let bits = value["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3 measured nothing: {}", value["error"]))? / 1e6)
}

/// Starts iperf3's server and waits until it listens.
///
/// # Errors
/// When it does not come up.
pub fn iperf3_server(ns: &Netns, port: u16) -> Result<Background> {
    let server = Background::spawn(ns, &format!("iperf3 --server --port {port}"))?;
    eventually(seconds(5), "iperf3 listens", || {
        Ok(!ns.run(&format!("ss -Hltn sport = :{port}"))?.trim().is_empty())
    })?;
    Ok(server)
}

/// `http://ENDPOINT/`.
pub fn url(endpoint: &str) -> String {
    format!("http://{endpoint}/")
}

/// A client that prints one JSON document and ends; `timeout` is its deadline.
fn client(ns: &Netns, args: &[&str]) -> Result<Value> {
    let deadline = CLIENT_DEADLINE.as_secs().to_string();
    let mut command = ns.command("timeout");
    let text = run(command.arg(deadline).arg(programs::labtool()?).args(args))?;
    serde_json::from_str(&text).with_context(|| format!("{} printed {text:?}", args.join(" ")))
}

fn any(port: u16) -> String {
    format!("[::]:{port}")
}

const CLIENT_DEADLINE: Duration = millis(120_000);

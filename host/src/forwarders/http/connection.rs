//! One HTTP/1.1 connection, which its current request drives.
//!
//! hyper separates the handle that sends a request from the future that moves the bytes. Usually a
//! task of its own polls that future. Here each operation polls it together with what it waits for,
//! so a connection needs no task, and is closed when its request is dropped.

use std::{
    pin::{Pin, pin},
    task::{Context, Waker},
};

use futures_util::future::poll_fn;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;

use super::stream::{Received, Stream};

/// Maximum bytes of an answer's head, and of bytes that are read ahead. 64 KiB: far more than the
/// headers of usual receivers.
const BUFFER_BYTES: usize = 64 << 10;

/// A connection. It carries one request at a time.
pub(super) struct Connection {
    sender: http1::SendRequest<String>,
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, String>>>,
    /// Whether the driver has ended, and must not be polled again.
    has_ended: bool,
    received: Received,
}

impl Connection {
    /// Prepares a connection for its first request.
    pub(super) async fn open(stream: Stream) -> Result<Self, hyper::Error> {
        let received = stream.received();
        let (sender, driver) = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await?;
        Ok(Connection { sender, driver: Box::pin(driver), has_ended: false, received })
    }

    /// Sends a request, and waits for the head of its answer.
    pub(super) async fn send(&mut self, request: Request<String>) -> Result<Response<Incoming>, hyper::Error> {
        self.received.clear();
        let mut answer = pin!(self.sender.send_request(request));
        poll_fn(|cx| {
            drive(&mut self.driver, &mut self.has_ended, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Reads a body until `read` has `most` bytes. Returns whether that is the whole body.
    pub(super) async fn read(&mut self, body: &mut Incoming, read: &mut Vec<u8>, most: usize) -> bool {
        loop {
            let frame = poll_fn(|cx| {
                drive(&mut self.driver, &mut self.has_ended, cx);
                Pin::new(&mut *body).poll_frame(cx)
            });
            match frame.await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    let room = most - read.len();
                    read.extend_from_slice(&data[..data.len().min(room)]);
                    if data.len() > room {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether any byte has arrived since the current request.
    pub(super) fn has_answered(&self) -> bool {
        self.received.is_set()
    }

    /// Whether it can carry another request: the last answer was read to the end, and the other
    /// side has neither closed it nor sent anything since.
    pub(super) fn is_reusable(&mut self) -> bool {
        // The next operation registers a real waker.
        drive(&mut self.driver, &mut self.has_ended, &mut Context::from_waker(Waker::noop()));
        !self.has_ended && self.sender.is_ready()
    }
}

/// Moves bytes as far as possible. How the connection ended is reported by what waits for it.
fn drive(
    driver: &mut Pin<Box<http1::Connection<TokioIo<Stream>, String>>>,
    has_ended: &mut bool,
    cx: &mut Context<'_>,
) {
    if !*has_ended {
        *has_ended = driver.as_mut().poll(cx).is_ready();
    }
}

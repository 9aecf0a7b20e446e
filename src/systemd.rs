//! The service manager (systemd, or another that speaks its protocols): the sockets that it passes in, and what it is told.
//!
//! Socket activation (sd_listen_fds(3)): the manager binds the sockets and keeps them while the program restarts, so that whoever
//! connects in between waits instead of being refused. Notification (sd_notify(3)): ready, stopping, and still alive. Without a
//! manager there is nothing of both. It knows no settings: a passed socket belongs to whoever would have bound its address.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
#[cfg(target_os = "linux")]
use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr as UnixAddr};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// The shortest time between two signs of life; nobody asks for them this often.
const SHORTEST: Duration = Duration::from_millis(1);

/// The sockets that the service manager passed to this process, until somebody takes them.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: Vec<(SocketAddr, TcpListener)>,
    datagrams: Vec<(SocketAddr, UdpSocket)>,
}

impl Inherited {
    /// What the environment (`LISTEN_FDS`, `LISTEN_PID`) says was passed; without these variables, nothing. Ask once: the sockets
    /// are not passed a second time.
    ///
    /// # Errors
    /// If something was passed that is neither a listening TCP socket nor a UDP socket.
    pub fn from_env() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..passed.len() {
            if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                inherited.add_listener(listener)?;
            } else if let Ok(Some(socket)) = passed.take_udp_socket(index) {
                socket.set_nonblocking(true)?;
                inherited.datagrams.push((socket.local_addr()?, socket));
            } else {
                return Err(unfit(
                    index,
                    "is neither a TCP nor a UDP socket: use ListenStream=PORT and ListenDatagram=PORT",
                ));
            }
        }
        Ok(inherited)
    }

    fn add_listener(&mut self, listener: TcpListener) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if !SockRef::from(&listener).is_listener()? {
            return Err(unfit(
                self.listeners.len() + self.datagrams.len(),
                "is a single connection: Accept=no is needed",
            ));
        }
        listener.set_nonblocking(true)?;
        self.listeners.push((listener.local_addr()?, listener));
        Ok(())
    }

    /// The TCP socket that was passed for one of these addresses, if there is one.
    pub fn take_tcp(&mut self, addresses: &[SocketAddr]) -> Option<TcpListener> {
        take(&mut self.listeners, addresses)
    }

    /// The UDP socket that was passed for one of these addresses, if there is one.
    pub fn take_udp(&mut self, addresses: &[SocketAddr]) -> Option<UdpSocket> {
        take(&mut self.datagrams, addresses)
    }

    /// The address of a socket that nobody has taken: clients would wait there for ever.
    #[must_use]
    pub fn left(&self) -> Option<SocketAddr> {
        let listener = self.listeners.first().map(|(address, _)| *address);
        listener.or_else(|| self.datagrams.first().map(|(address, _)| *address))
    }
}

fn take<T>(sockets: &mut Vec<(SocketAddr, T)>, addresses: &[SocketAddr]) -> Option<T> {
    let index = sockets
        .iter()
        .position(|(address, _)| addresses.contains(address))?;
    Some(sockets.swap_remove(index).1)
}

fn unfit(index: usize, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("socket {} of the service manager {what}", index + 1),
    )
}

/// Tells the service manager that the program is ready as soon as `ready` resolves, and from then on, as often as it wants to hear
/// it (`WATCHDOG_USEC`), that the program still runs; `status` is the line that `systemctl status` shows. Returns at once if there
/// is no service manager that listens or none that wants to hear more; else never. Not to be polled anew after it was dropped.
pub async fn report(ready: impl Future<Output = ()>, status: impl Fn() -> String) {
    ready.await;
    if let Err(error) = tell(&[NotifyState::Ready, NotifyState::Status(&status())]).await {
        warn!(%error, "the service manager cannot be told that the relay is ready");
        return;
    }
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Twice as often as needed, as sd_watchdog_enabled(3) advises.
    let mut alive = interval((limit / 2).max(SHORTEST));
    alive.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        alive.tick().await;
        // A lost one is made good by the next; if all are, the manager ends us, and that is its right.
        let _ = tell(&[NotifyState::Watchdog, NotifyState::Status(&status())]).await;
    }
}

/// Tells the service manager, if there is one, that the program has begun to end. Never waits.
pub fn stopping() {
    if let Ok(Some(manager)) = manager() {
        // It finds out by itself.
        let _ = manager.send(&text(&[NotifyState::Stopping]));
    }
}

async fn tell(states: &[NotifyState<'_>]) -> io::Result<()> {
    if let Some(manager) = manager()? {
        tokio::net::UnixDatagram::from_std(manager)?
            .send(&text(states))
            .await?;
    }
    Ok(())
}

/// A way to the service manager, if there is one. Not the crate's own: that would block a thread of the runtime, and with it the end
/// of the program, for as long as the manager does not read.
fn manager() -> io::Result<Option<UnixDatagram>> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.as_encoded_bytes() {
        // A name without a file, which some managers of containers use.
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => socket.connect_addr(&UnixAddr::from_abstract_name(name)?)?,
        _ => socket.connect(&path)?,
    }
    Ok(Some(socket))
}

fn text(states: &[NotifyState<'_>]) -> Vec<u8> {
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    lines.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited() -> (Inherited, SocketAddr, SocketAddr) {
        let mut inherited = Inherited::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap();
        inherited.add_listener(listener).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = socket.local_addr().unwrap();
        inherited.datagrams.push((udp, socket));
        (inherited, tcp, udp)
    }

    #[test]
    fn each_socket_goes_to_its_address_and_once() {
        let (mut inherited, tcp, udp) = inherited();
        let elsewhere: SocketAddr = "127.0.0.2:9".parse().unwrap();
        assert!(inherited.take_tcp(&[udp, elsewhere]).is_none());
        assert!(inherited.take_udp(&[tcp, elsewhere]).is_none());
        assert_eq!(inherited.left(), Some(tcp));
        let taken = inherited.take_tcp(&[elsewhere, tcp]).unwrap();
        assert_eq!(taken.local_addr().unwrap(), tcp);
        assert!(inherited.take_tcp(&[tcp]).is_none());
        assert_eq!(inherited.left(), Some(udp));
        assert!(inherited.take_udp(&[udp]).is_some());
        assert_eq!(inherited.left(), None);
    }

    #[test]
    fn nothing_is_passed_without_a_service_manager() {
        assert_eq!(Inherited::from_env().unwrap().left(), None);
    }
}

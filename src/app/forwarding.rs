//! Owns how a signal reaches the app: alone or with its group, and with the terminal if it needs that. Must not know which signal is
//! forwarded when: `supervisor` does.

use tracing::warn;

use super::signal::SignalScope;
use crate::error::words;
use crate::sys::process;
use crate::sys::signal;
use crate::sys::terminal::Terminal;

/// Delivers signals to one app.
pub struct Forwarding {
    app: i32,
    scope: SignalScope,
    terminal: Option<Terminal>,
    /// The app was given the terminal, or was suspended because it lacked it: it gets the terminal when it is continued.
    wants_terminal: bool,
}

impl Forwarding {
    pub fn new(app: i32, scope: SignalScope, terminal: Option<Terminal>, has_terminal: bool) -> Self {
        Self { app, scope, terminal, wants_terminal: has_terminal }
    }

    pub fn forward(&self, signal: i32) {
        let Some(terminal) = self.terminal.filter(|_| signal == libc::SIGCONT && self.wants_terminal) else {
            return self.send(signal);
        };
        // `fg` in the shell above gave the foreground to reberth's group. The app needs the foreground before it continues, and so does the
        // rest of its group.
        if terminal.is_ours() {
            terminal.give_to(self.app);
        }
        self.resume();
    }

    /// Continues the app's whole group.
    pub fn resume(&self) {
        let _ = process::send(-self.app, libc::SIGCONT);
    }

    pub fn send(&self, signal: i32) {
        let target = match self.scope {
            SignalScope::Child => self.app,
            SignalScope::Group => -self.app,
        };
        // ESRCH: the app has just exited, and its SIGCHLD is about to report that. EPERM: the app runs as another user, and reberth may not
        // signal it.
        if let Err(error) = process::send(target, signal)
            && error.raw_os_error() == Some(libc::EPERM)
        {
            warn!(
                "{} cannot be sent to the app (pid {}): {}; it runs as another user",
                signal::name(signal),
                self.app,
                words(&error)
            );
        }
    }

    /// The app was suspended by this signal. True: because it lacked the terminal, which was free, so it was given the terminal and
    /// continued.
    pub fn suspended(&mut self, by: i32) -> bool {
        let wants_it = matches!(by, libc::SIGTTIN | libc::SIGTTOU);
        self.wants_terminal |= wants_it;
        let Some(terminal) = self.terminal.filter(|terminal| wants_it && terminal.is_ours()) else { return false };
        terminal.give_to(self.app);
        self.resume();
        true
    }

    /// The app's group is in the foreground of the terminal.
    pub fn is_in_foreground(&self) -> bool {
        self.terminal.is_some_and(|terminal| terminal.is_of(self.app))
    }

    /// The app has exited.
    pub fn take_terminal_back(&self) {
        if let Some(terminal) = self.terminal {
            terminal.take_back(self.app);
        }
    }
}

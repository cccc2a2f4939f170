//! What clients say: from their sockets to a container's stdin, one packet at a time.

use rustix::event::epoll::EventFlags;

use super::Monitor;
use crate::attach::{Attached, Input};
use crate::container::Key;
use crate::poll::Token;

impl Monitor {
    /// Takes a packet from a client, if its container took the last one.
    pub(crate) fn take_input(&mut self, key: Key, hung_up: bool) {
        let Some(client) = self.attached.get(&key) else {
            return;
        };
        let container = client.container;
        let input = self.with_stage(|monitor, stage| match monitor.attached.get(&key) {
            None => Input::Nothing,
            Some(client) => {
                let input = client.receive(stage.text());
                if let (Input::Bytes(count), true) = (&input, client.stdin) {
                    monitor.feed(container, &stage.text()[..*count]);
                }
                input
            }
        });
        match input {
            Input::Nothing | Input::Bytes(_) => {}
            Input::End => self.input_ended(key),
            Input::Gone => self.drop_attached(key),
        }
        if hung_up && !matches!(input, Input::Bytes(_)) {
            self.drop_attached(key);
        }
    }

    fn input_ended(&mut self, key: Key) {
        let Some(client) = self.attached.get_mut(&key) else {
            return;
        };
        let had_stdin = std::mem::replace(&mut client.stdin, false);
        let container = client.container;
        // It may still listen; only a full hang-up is news from now on.
        let _ = self.poll.rewatch(&client.socket, Token::Attached(key), EventFlags::empty());
        if had_stdin && let Some(container) = self.containers.get_mut(&container) {
            container.end_stdin(&self.poll);
        }
    }

    fn feed(&mut self, key: Key, bytes: &[u8]) {
        if let Some(container) = self.containers.get_mut(&key) {
            container.feed(bytes, &self.poll);
            self.watch_input(key);
        }
    }

    /// The container takes input again.
    pub(crate) fn feed_rest(&mut self, key: Key) {
        if let Some(container) = self.containers.get_mut(&key) {
            let rest = std::mem::take(&mut container.stdin_rest);
            container.feed(&rest, &self.poll);
            self.watch_input(key);
        }
    }

    /// Clients are read while nothing is left to be fed. Meanwhile they are not watched at all: a hang-up would
    /// be told again and again, and it can wait until what the client said before has been fed.
    fn watch_input(&mut self, container: Key) {
        let hungry = self.containers.get(&container).is_some_and(|container| container.stdin_rest.is_empty());
        let speakers = |client: &Attached| client.container == container && client.stdin;
        for (key, client) in self.attached.iter().filter(|(_, client)| speakers(client)) {
            if hungry {
                // Watched already is what is wanted.
                let _ = self.poll.watch(&client.socket, Token::Attached(*key), EventFlags::IN);
            } else {
                self.poll.unwatch(&client.socket);
            }
        }
    }

    pub(crate) fn drop_attached(&mut self, key: Key) {
        self.input_ended(key);
        if let Some(client) = self.attached.remove(&key) {
            self.poll.unwatch(&client.socket);
        }
    }
}

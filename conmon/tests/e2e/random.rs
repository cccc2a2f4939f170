//! Any asks in any order: each is answered, none leads to an impossible state, and nothing is left.

use std::os::fd::AsFd as _;

use conmon_protocol::{Answer, Ask, Phase, Refusal, RefusalKind, Scope};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::harness::{Pod, exec_plan};

/// Small, seeded, and good enough to mix asks (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn ask(pod: &mut Pod, dice: &mut Dice) -> Ask {
    let container_id = format!("c{}", dice.roll(3));
    match dice.roll(12) {
        0 | 1 => {
            let script = ["sleep 1000", "exit 3", "echo hello; sleep 0.01", "cat"][dice.roll(4) as usize];
            Ask::Create(pod.container(&container_id, script))
        }
        2 | 3 => Ask::Start { container_id },
        4 => Ask::Signal { container_id, signal: [0, 9, 15][dice.roll(3) as usize], scope: Scope::Init },
        5 => Ask::Signal { container_id, signal: 9, scope: Scope::All },
        6 => Ask::Delete { container_id },
        7 => Ask::Reopen { container_id },
        8 => Ask::Resize { container_id, columns: 80, rows: 25 },
        9 => Ask::KillExec { exec_id: format!("e{}", dice.roll(3)) },
        10 => Ask::Attach { container_id, stdin: true, stdout: true, stderr: true },
        _ => {
            let script = ["true", "sleep 1000", "exit 4"][dice.roll(3) as usize];
            let mut plan = exec_plan(&format!("e{}", dice.roll(3)), &container_id, script);
            (plan.stdout, plan.stderr, plan.timeout_ms) = (false, false, Some(dice.roll(50) + 1));
            Ask::Exec(plan)
        }
    }
}

/// What an answer promises must be so when it is asked for.
fn check(pod: &mut Pod, asked: &Ask, answered: Result<Answer, Refusal>) {
    let why = answered.as_ref().err().map(|refusal| refusal.message.clone());
    let answered = &answered.map_err(|refusal| refusal.kind);
    let state = pod.state();
    let phase = |id: &str| state.iter().find(|(known, _)| known == id).map(|(_, phase)| *phase);
    match (asked, answered) {
        (Ask::Create(plan), Ok(_)) => {
            assert!(matches!(phase(&plan.container_id), Some(Phase::Created { .. } | Phase::Exited(_))));
        }
        (Ask::Create(plan), Err(kind)) => {
            assert_eq!(*kind, RefusalKind::Exists);
            assert!(phase(&plan.container_id).is_some());
        }
        (Ask::Start { container_id }, Ok(_)) => {
            assert!(matches!(phase(container_id), Some(Phase::Running { .. } | Phase::Exited(_))));
        }
        (Ask::Delete { container_id }, Ok(_)) => assert_eq!(phase(container_id), None),
        (Ask::Delete { .. } | Ask::KillExec { .. }, Err(kind)) => panic!("{asked:?}: {kind:?}"),
        (_, Err(kind)) => {
            assert!(!matches!(kind, RefusalKind::Failed | RefusalKind::Unsupported), "{asked:?}: {why:?}");
        }
        (_, Ok(_)) => {}
    }
}

#[test]
fn any_asks_in_any_order_are_answered_and_leave_nothing() {
    let seeds = std::env::var("BERTH_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    for seed in 1..=seeds {
        let Some(mut pod) = Pod::made() else { return };
        let mut dice = Dice(seed);
        let mut clients = Vec::new();
        for _ in 0..150 {
            let asked = ask(&mut pod, &mut dice);
            let answer = if let Ask::Attach { .. } = asked {
                let kind = SocketType::SEQPACKET;
                let (ours, theirs) =
                    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
                clients.push(ours);
                pod.daemon.ask_with(asked.clone(), &[theirs.as_fd()]).0
            } else {
                pod.daemon.ask(asked.clone())
            };
            check(&mut pod, &asked, answer);
            if dice.roll(40) == 0 {
                pod.replace_monitor();
            }
        }
        pod.unmake();
    }
}

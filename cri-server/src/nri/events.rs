//! The events that plugins can hear of.

use proto::nri::Event;

/// Its place in a mask.
pub(super) fn bit(event: Event) -> u32 {
    1 << (event as u32).saturating_sub(1)
}

/// What a plugin says it wants; zero means all. None when there are no such events.
pub(super) fn mask(told: i32) -> Option<u32> {
    let all = bit(Event::Last) - 1;
    match u32::try_from(told).ok()? {
        0 => Some(all),
        some if some & !all == 0 => Some(some),
        _ => None,
    }
}

/// Whether a plugin may say no to it. What has happened has happened.
pub(super) fn is_question(event: Event) -> bool {
    match event {
        Event::RunPodSandbox
        | Event::CreateContainer
        | Event::StartContainer
        | Event::UpdateContainer
        | Event::UpdatePodSandbox
        | Event::ValidateContainerAdjustment => true,
        Event::StopPodSandbox
        | Event::RemovePodSandbox
        | Event::PostCreateContainer
        | Event::PostStartContainer
        | Event::PostUpdateContainer
        | Event::StopContainer
        | Event::RemoveContainer
        | Event::PostUpdatePodSandbox
        | Event::Unknown
        | Event::Last => false,
    }
}

/// The call that tells of it.
pub(super) fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        Event::Unknown | Event::Last => "StateChange",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_holds_what_there_is_and_nothing_else() {
        assert_eq!(bit(Event::RunPodSandbox), 1);
        assert_eq!(bit(Event::ValidateContainerAdjustment), 1 << 13);
        assert_eq!(mask(0), Some((1 << 14) - 1));
        assert_eq!(mask(1 << 3), Some(bit(Event::CreateContainer)));
        assert_eq!(mask(1 << 14), None);
        assert_eq!(mask(-1), None);
    }
}

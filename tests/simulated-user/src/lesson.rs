//! What a person says of a model's replies: the events of feedback, so many of them.

use crate::population::Prompt;
use crate::random::Random;
use crate::user::{SimulatedUser, Thumb};

/// By how much a rewritten reply must beat the best one shown for a person to take the trouble.
pub const WORTH_EDITING: f64 = 1.0;

/// What is said of one reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Index of the prompt.
    pub prompt: usize,
    /// Index of the reply among those to the prompt.
    pub reply: usize,
    /// What is said.
    pub act: Act,
}

/// What a person does with a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// 👍
    Up,
    /// 👎
    Down,
    /// Rewrites it to this.
    Edit(String),
}

/// How a lesson is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Events, edits included.
    pub n: usize,
    /// Replies to one prompt that are looked at together.
    pub replies: usize,
    /// Decides which prompts are asked, and which replies are shown.
    pub seed: u64,
    /// Whether the thumbs are shuffled among the events afterwards: as many of each, about nothing. Nobody edits then, since an
    /// edit shows the taste whoever makes it.
    pub shuffled: bool,
}

/// A lesson about replies, those to each prompt in a list of its own. Prompts come in an order of the seed's; of each, `replies`
/// are looked at. If rewriting the best of them would gain [`WORTH_EDITING`] over it, the taste is not among them, and the
/// person edits that one and says no more of the prompt; otherwise each gets a thumb. Prompts that were not edited are taken up
/// again, with the next replies, once all were asked. There may be fewer than `n` events where the replies run out.
pub fn lesson(
    user: &mut SimulatedUser,
    prompts: &[Prompt],
    replies: &[Vec<&str>],
    course: &Course,
) -> Vec<Event> {
    let mut random = Random::new(course.seed ^ 0x006c_6573_736f_6e00);
    let mut asked: Vec<(usize, Vec<usize>)> = (0..prompts.len().min(replies.len()))
        .map(|prompt| {
            let mut shown: Vec<usize> = (0..replies[prompt].len()).collect();
            random.shuffle(&mut shown);
            (prompt, shown)
        })
        .collect();
    random.shuffle(&mut asked);
    let mut events = Vec::new();
    while events.len() < course.n && !asked.is_empty() {
        asked.retain_mut(|(prompt, rest)| {
            if events.len() >= course.n {
                return true;
            }
            let shown: Vec<usize> = rest.drain(..course.replies.min(rest.len())).collect();
            let said = on_prompt(user, &prompts[*prompt], &replies[*prompt], &shown, course);
            let edited = said.iter().any(|(_, act)| matches!(act, Act::Edit(_)));
            let left = course.n - events.len();
            events.extend(said.into_iter().take(left).map(|(reply, act)| Event {
                prompt: *prompt,
                reply,
                act,
            }));
            !edited && !rest.is_empty()
        });
    }
    if course.shuffled {
        let mut acts: Vec<Act> = events.iter().map(|event| event.act.clone()).collect();
        random.shuffle(&mut acts);
        for (event, act) in events.iter_mut().zip(acts) {
            event.act = act;
        }
    }
    events
}

fn on_prompt(
    user: &mut SimulatedUser,
    prompt: &Prompt,
    replies: &[&str],
    shown: &[usize],
    course: &Course,
) -> Vec<(usize, Act)> {
    let utility = |text: &str| user.taste().utility(prompt, text);
    let best = shown
        .iter()
        .map(|reply| (*reply, utility(replies[*reply])))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((reply, best)) = best.filter(|_| !course.shuffled)
        && let Some(text) = user.edited(prompt, replies[reply])
        && utility(&text) >= best + WORTH_EDITING
    {
        return vec![(reply, Act::Edit(text))];
    }
    let mut thumb = |reply: usize| match user.thumb(prompt, replies[reply]) {
        Thumb::Up => Act::Up,
        Thumb::Down => Act::Down,
    };
    shown.iter().map(|reply| (*reply, thumb(*reply))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;
    use crate::population::{Population, User, demo};

    const LONG: &str = "Well, that is a good question. There are a great many things to be said about it, and most of them \
        have been said before by somebody who knew more. It takes some patience to get to the end of this. One could go on \
        for a while, and many people do, since there is no end to what may be added here and there. Others prefer to begin \
        with history, which helps nobody in a hurry, but looks learned on paper. Then come the exceptions, each with its \
        own story, and after these the warnings, which are always the same. At last somebody asks whether any part has \
        been answered yet, and everyone agrees that more research would be needed before daring to say anything so plain \
        in public. That is how most evenings end, with tea, and a promise of continuing next week under better light.";
    const SHORT: &str = "It depends on what you have at home. Try the simplest thing that works, and ask again if it does not \
        help you by tomorrow.";

    fn prompts() -> &'static [Prompt] {
        &Population::development().training[..6]
    }

    fn replies(n: usize) -> Vec<Vec<&'static str>> {
        let one = (0..n).map(|i| if i % 2 == 0 { SHORT } else { LONG });
        vec![one.collect(); prompts().len()]
    }

    fn course(n: usize) -> Course {
        Course {
            n,
            replies: 2,
            seed: 3,
            shuffled: false,
        }
    }

    fn lister() -> &'static User {
        Population::development().user("lists").unwrap()
    }

    #[test]
    fn a_lesson_has_as_many_events_as_asked_each_about_another_reply() {
        let mut user = SimulatedUser::new(demo(), &[], 1, 0.0);
        let events = lesson(&mut user, prompts(), &replies(4), &course(17));
        assert_eq!(events.len(), 17);
        let about: HashSet<_> = events.iter().map(|e| (e.prompt, e.reply)).collect();
        assert_eq!(about.len(), 17);
        let asked: HashSet<_> = events[..12].iter().map(|e| e.prompt).collect();
        assert_eq!(asked.len(), 6, "every prompt comes before one comes again");
        for event in &events {
            let expected = if event.reply % 2 == 0 {
                Act::Up
            } else {
                Act::Down
            };
            assert_eq!(event.act, expected);
        }
        let all = lesson(&mut user, prompts(), &replies(4), &course(99));
        assert_eq!(all.len(), 24, "there are no more replies than these");
    }

    #[test]
    fn the_seed_decides_what_is_asked_and_shown() {
        let given = |seed| {
            let mut user = SimulatedUser::new(demo(), &[], 1, 0.0);
            let course = Course { seed, ..course(8) };
            lesson(&mut user, prompts(), &replies(4), &course)
        };
        assert_eq!(given(1), given(1));
        assert_ne!(given(1), given(2));
    }

    #[test]
    fn a_person_edits_where_no_reply_shows_the_taste_and_says_no_more_of_that_prompt() {
        let mut user = SimulatedUser::new(lister(), &[], 1, 0.0);
        let events = lesson(&mut user, prompts(), &replies(4), &course(20));
        assert_eq!(events.len(), 6);
        for event in &events {
            let Act::Edit(text) = &event.act else {
                panic!("{event:?}")
            };
            assert!(
                text.starts_with("- ") && text.lines().count() >= 2,
                "{text}"
            );
        }
        let list = "- It depends on what you have at home.\n- Try the simplest thing that works.\n- Ask again if it does \
            not help.\n- Try a better thing tomorrow, and then see.";
        let shown = vec![vec![list, LONG]; prompts().len()];
        let events = lesson(&mut user, prompts(), &shown, &course(20));
        assert_eq!(events.len(), 12);
        assert!(events.iter().all(|e| !matches!(e.act, Act::Edit(_))));
    }

    #[test]
    fn shuffled_thumbs_are_as_many_of_each_and_no_edits() {
        let mut user = SimulatedUser::new(demo(), &[], 1, 0.0);
        let straight = lesson(&mut user.clone(), prompts(), &replies(4), &course(24));
        let course = Course {
            shuffled: true,
            ..course(24)
        };
        let shuffled = lesson(&mut user, prompts(), &replies(4), &course);
        let ups = |events: &[Event]| events.iter().filter(|e| e.act == Act::Up).count();
        assert_eq!(ups(&straight), ups(&shuffled));
        assert_ne!(straight, shuffled);
        let mut lister = SimulatedUser::new(lister(), &[], 1, 0.0);
        let events = lesson(&mut lister, prompts(), &replies(4), &course);
        assert!(events.iter().all(|e| !matches!(e.act, Act::Edit(_))));
    }
}

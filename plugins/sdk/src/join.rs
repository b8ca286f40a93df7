//! Waiting for several branches at once, all of them polled in every round.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// Runs two branches side by side and waits for both.
///
/// Effects that both wait for at the same time go out in one round. Neither branch is given up
/// when the other fails: join `Result`s and use `?` afterwards.
pub async fn join<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut left, mut right) = (None, None);
    poll_fn(move |task| {
        if left.is_none()
            && let Poll::Ready(output) = first.as_mut().poll(task)
        {
            left = Some(output);
        }
        if right.is_none()
            && let Poll::Ready(output) = second.as_mut().poll(task)
        {
            right = Some(output);
        }
        match (left.take(), right.take()) {
            (Some(left), Some(right)) => Poll::Ready((left, right)),
            (unready_left, unready_right) => {
                (left, right) = (unready_left, unready_right);
                Poll::Pending
            }
        }
    })
    .await
}

/// Runs any number of branches side by side and waits for all; outputs in the branches' order.
pub async fn join_all<F: Future>(branches: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    type Slot<F> = (Pin<Box<F>>, Option<<F as Future>::Output>);
    let mut slots: Vec<Slot<F>> = branches
        .into_iter()
        .map(|branch| (Box::pin(branch), None))
        .collect();
    poll_fn(|task| {
        let mut waiting = false;
        for (branch, output) in &mut slots {
            if output.is_none() {
                match branch.as_mut().poll(task) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    slots.into_iter().filter_map(|(_, output)| output).collect()
}

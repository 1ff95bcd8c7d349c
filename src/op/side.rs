//! What stands beside the list of a call: reports to add to, guards to look at, sums to add to, or nothing.

use super::item::Rewrap;
use crate::error::Result;
use crate::memory::Memory;
use crate::numerics::constants::state::WORDS;
use crate::numerics::reduce::SUM_WORDS;

/// The words of a state ([`crate::numerics::state::State`]) that a call follows, if it does.
pub struct StateOn<'a, M: Memory + ?Sized>(pub Option<M::View<'a, u32>>);

/// One kind of what stands beside a list.
pub trait Side {
    /// It, on a kind of memory.
    type On<'a, M: Memory + ?Sized + 'a>;

    /// Slots of the reports, the guards and the sums.
    fn slots<M: Memory + ?Sized>(side: &Self::On<'_, M>) -> Lengths;

    /// Checks that it can be used here.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`], or [`crate::Error::Length`] for sums of another length than whole slots.
    fn accepted<M: Memory + ?Sized>(memory: &M, side: &Self::On<'_, M>) -> Result<()>;

    /// The same on another kind of memory.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn rewrap<'s, M: Memory + ?Sized + 's, N: Memory + ?Sized + 's>(
        side: &'s mut Self::On<'_, M>,
        by: &impl Rewrap<M, N>,
    ) -> Result<Self::On<'s, N>>;
}

/// How many slots there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Of the reports that are added to.
    pub reports: usize,
    /// Of the reports that are looked at.
    pub guards: usize,
    /// Of the sums.
    pub sums: usize,
}

/// Nothing.
#[derive(Debug)]
pub struct Nothing;

/// Reports that take what is found.
#[derive(Debug)]
pub struct Found;

/// Reports that items may name as their guard.
#[derive(Debug)]
pub struct Guards;

/// A state that the draws follow, and reports that take what is found.
#[derive(Debug)]
pub struct StateAndFound;

/// A state that the update follows, guards of the whole call, and reports that take what is found.
#[derive(Debug)]
pub struct GuardsAndFound;

/// Exact sums, [`SUM_WORDS`] words a slot.
#[derive(Debug)]
pub struct Sums;

impl Side for Nothing {
    type On<'a, M: Memory + ?Sized + 'a> = ();

    fn slots<M: Memory + ?Sized>((): &()) -> Lengths {
        Lengths::default()
    }

    fn accepted<M: Memory + ?Sized>(_: &M, (): &()) -> Result<()> {
        Ok(())
    }

    fn rewrap<'s, M: Memory + ?Sized + 's, N: Memory + ?Sized + 's>(
        (): &'s mut (),
        _: &impl Rewrap<M, N>,
    ) -> Result<()> {
        Ok(())
    }
}

impl Side for Found {
    type On<'a, M: Memory + ?Sized + 'a> = &'a mut M::Reports;

    fn slots<M: Memory + ?Sized>(side: &&mut M::Reports) -> Lengths {
        Lengths { reports: M::report_slots(side), ..Lengths::default() }
    }

    fn accepted<M: Memory + ?Sized>(memory: &M, side: &&mut M::Reports) -> Result<()> {
        memory.accepts_reports(side)
    }

    fn rewrap<'s, M: Memory + ?Sized + 's, N: Memory + ?Sized + 's>(
        side: &'s mut &mut M::Reports,
        by: &impl Rewrap<M, N>,
    ) -> Result<&'s mut N::Reports> {
        by.reports_mut(side)
    }
}

impl Side for Guards {
    type On<'a, M: Memory + ?Sized + 'a> = Option<&'a M::Reports>;

    fn slots<M: Memory + ?Sized>(side: &Option<&M::Reports>) -> Lengths {
        Lengths { guards: side.map_or(0, M::report_slots), ..Lengths::default() }
    }

    fn accepted<M: Memory + ?Sized>(memory: &M, side: &Option<&M::Reports>) -> Result<()> {
        side.map_or(Ok(()), |reports| memory.accepts_reports(reports))
    }

    fn rewrap<'s, M: Memory + ?Sized + 's, N: Memory + ?Sized + 's>(
        side: &'s mut Option<&M::Reports>,
        by: &impl Rewrap<M, N>,
    ) -> Result<Option<&'s N::Reports>> {
        side.map(|reports| by.reports(reports)).transpose()
    }
}

impl Side for StateAndFound {
    type On<'a, M: Memory + ?Sized + 'a> = (StateOn<'a, M>, &'a mut M::Reports);

    fn slots<M: Memory + ?Sized>((_, found): &(StateOn<'_, M>, &mut M::Reports)) -> Lengths {
        Lengths { reports: M::report_slots(found), ..Lengths::default() }
    }

    fn accepted<M: Memory + ?Sized>(memory: &M, (state, found): &(StateOn<'_, M>, &mut M::Reports)) -> Result<()> {
        accepts_state(memory, state)?;
        memory.accepts_reports(found)
    }

    fn rewrap<'s, M: Memory + ?Sized + 's, N: Memory + ?Sized + 's>(
        (state, found): &'s mut (StateOn<'_, M>, &mut M::Reports),
        by: &impl Rewrap<M, N>,
    ) -> Result<(StateOn<'s, N>, &'s mut N::Reports)> {
        Ok((rewrap_state(state, by)?, by.reports_mut(found)?))
    }
}

type GuardedOn<'a, M> = (StateOn<'a, M>, Option<&'a <M as Memory>::Reports>, &'a mut <M as Memory>::Reports);

impl Side for GuardsAndFound {
    type On<'a, M: Memory + ?Sized + 'a> = GuardedOn<'a, M>;

    fn slots<M: Memory + ?Sized>((_, guards, found): &GuardedOn<'_, M>) -> Lengths {
        Lengths { guards: guards.map_or(0, M::report_slots), reports: M::report_slots(found), sums: 0 }
    }

    fn accepted<M: Memory + ?Sized>(memory: &M, (state, guards, found): &GuardedOn<'_, M>) -> Result<()> {
        accepts_state(memory, state)?;
        guards.map_or(Ok(()), |reports| memory.accepts_reports(reports))?;
        memory.accepts_reports(found)
    }

    fn rewrap<'s, M: Memory + ?Sized + 's, N: Memory + ?Sized + 's>(
        (state, guards, found): &'s mut GuardedOn<'_, M>,
        by: &impl Rewrap<M, N>,
    ) -> Result<GuardedOn<'s, N>> {
        let guards = guards.map(|reports| by.reports(reports)).transpose()?;
        Ok((rewrap_state(state, by)?, guards, by.reports_mut(found)?))
    }
}

fn accepts_state<M: Memory + ?Sized>(memory: &M, state: &StateOn<'_, M>) -> Result<()> {
    let Some(view) = &state.0 else { return Ok(()) };
    super::length("words of the state", WORDS, M::len(view))?;
    memory.accepts(view)
}

fn rewrap_state<'s, M: Memory + ?Sized, N: Memory + ?Sized>(
    state: &'s StateOn<'_, M>,
    by: &impl Rewrap<M, N>,
) -> Result<StateOn<'s, N>> {
    Ok(StateOn(state.0.map(|view| by.view(M::shorten(view))).transpose()?))
}

impl Side for Sums {
    type On<'a, M: Memory + ?Sized + 'a> = M::ViewMut<'a, u32>;

    fn slots<M: Memory + ?Sized>(side: &M::ViewMut<'_, u32>) -> Lengths {
        Lengths { sums: M::len_mut(side) / SUM_WORDS, ..Lengths::default() }
    }

    fn accepted<M: Memory + ?Sized>(memory: &M, side: &M::ViewMut<'_, u32>) -> Result<()> {
        let words = M::len_mut(side);
        super::length("words of the sums", words.next_multiple_of(SUM_WORDS), words)?;
        memory.accepts_mut(side)
    }

    fn rewrap<'s, M: Memory + ?Sized + 's, N: Memory + ?Sized + 's>(
        side: &'s mut M::ViewMut<'_, u32>,
        by: &impl Rewrap<M, N>,
    ) -> Result<N::ViewMut<'s, u32>> {
        by.view_mut(side)
    }
}

"""Runs plain Python on symbolic real numbers, along every path that its comparisons can take, and proves claims there.

A comparison of symbolic numbers is a condition; asked for its truth (by `if`) it takes one side, and the function is
run again for the other one. So what is proved is proved of the code that runs on the robot, not of a transcription.
"""

from __future__ import annotations

from collections.abc import Callable

import z3

TIMEOUT_MS = 60_000


class Refuted(AssertionError):
    """A claim is wrong; the message is a counterexample."""


class Undecided(AssertionError):
    """The solver could neither prove nor refute a claim."""


class Path:
    """One way through a function: which side every comparison takes, and what is known there."""

    def __init__(self, decisions: list[bool]) -> None:
        self._decisions, self._taken, self._given = decisions, 0, len(decisions)
        self._facts: list[z3.BoolRef] = []
        self._names = 0
        self.alternatives: list[list[bool]] = []
        """Decisions of the paths that branch off this one."""

    def real(self, name: str) -> Real:
        """Return a number of which nothing is known."""
        self._names += 1
        return Real(self, z3.Real(f"{name}!{self._names}"))

    def assume(self, *facts: z3.BoolRef) -> None:
        """Take facts as given."""
        self._facts += facts

    def prove(self, claim: z3.BoolRef, name: str) -> None:
        """Raise Refuted with a counterexample, or Undecided, unless the claim follows from what is known."""
        if self._taken < self._given:
            return  # The path that this one branches off came through here, and has proved it.
        answer, solver = self._check(z3.Not(claim), TIMEOUT_MS)
        if answer == z3.sat:
            raise Refuted(f"{name}: {solver.model()}")
        if answer != z3.unsat:
            raise Undecided(f"{name}: {solver.reason_unknown()}")

    def decide(self, condition: z3.BoolRef) -> bool:
        """Take a side of a condition; where both are possible, note the other one as an alternative."""
        if self._taken == len(self._decisions):
            can_hold = self._is_possible(condition)
            if can_hold and self._is_possible(z3.Not(condition)):
                self.alternatives.append([*self._decisions, False])
            self._decisions.append(can_hold)
        is_true = self._decisions[self._taken]
        self._taken += 1
        self._facts.append(condition if is_true else z3.Not(condition))
        return is_true

    def _is_possible(self, condition: z3.BoolRef) -> bool:
        # A side that the solver cannot rule out in time is taken too: that costs time, and proves no less.
        return self._check(condition, TIMEOUT_MS // 10)[0] != z3.unsat

    def _check(self, extra: z3.BoolRef, timeout_ms: int) -> tuple[z3.CheckSatResult, z3.Solver]:
        solver = z3.SolverFor("QF_NRA")
        solver.set("timeout", timeout_ms)
        solver.add(*self._facts, extra)
        return solver.check(), solver


class Real:
    """A symbolic real number. Its operations prove that Python can do them: no division by 0, no root of -1."""

    def __init__(self, path: Path, term: z3.ArithRef) -> None:
        self._path, self.term = path, term

    def __add__(self, other: Number) -> Real:
        return Real(self._path, self.term + term(other))

    def __sub__(self, other: Number) -> Real:
        return Real(self._path, self.term - term(other))

    def __rsub__(self, other: float) -> Real:
        return Real(self._path, term(other) - self.term)

    def __mul__(self, other: Number) -> Real:
        return Real(self._path, self.term * term(other))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Real:
        return Real(self._path, -self.term)

    def __truediv__(self, other: Number) -> Real:
        divisor, quotient = term(other), self._path.real("quotient")
        self._path.prove(divisor != 0, "no division by zero")
        self._path.assume(quotient.term * divisor == self.term)
        return quotient

    def __rtruediv__(self, other: float) -> Real:
        return Real(self._path, term(other)) / self

    def __pow__(self, exponent: float) -> Real:
        if exponent != 0.5:
            raise NotImplementedError(f"only square roots are known, not ** {exponent}")
        self._path.prove(self.term >= 0, "no root of a negative number")
        root = self._path.real("root")
        self._path.assume(root.term >= 0, root.term * root.term == self.term)
        return root

    def __lt__(self, other: Number) -> Condition:
        return Condition(self._path, self.term < term(other))

    def __gt__(self, other: Number) -> Condition:
        return Condition(self._path, self.term > term(other))

    def __le__(self, other: Number) -> Condition:
        return Condition(self._path, self.term <= term(other))

    def __ge__(self, other: Number) -> Condition:
        return Condition(self._path, self.term >= term(other))


Number = Real | float


class Condition:
    """A comparison of symbolic numbers, that branches where its truth is asked for."""

    def __init__(self, path: Path, formula: z3.BoolRef) -> None:
        self._path, self._formula = path, formula

    def __bool__(self) -> bool:
        return self._path.decide(self._formula)


def term(number: Number) -> z3.ArithRef:
    """Return a number as a term of the solver, a float by its exact value."""
    return number.term if isinstance(number, Real) else z3.Q(*float(number).as_integer_ratio())


def on_every_path(claims: Callable[[Path], None]) -> int:
    """Run `claims` along every possible path and return how many there are; whatever it raises ends that."""
    waiting: list[list[bool]] = [[]]
    paths = 0
    while waiting:
        path = Path(waiting.pop())
        claims(path)
        waiting += path.alternatives
        paths += 1
    return paths

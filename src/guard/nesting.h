// Does a guarded statement run in this backend? What it runs in turn (a function's, an event
// trigger's) is not guarded likewise.
#pragma once

namespace lockguard::pg {

enum class Nesting : int {
    none,
    attempt, // of a statement at low priority: if it fails for want of a lock, it is tried again
    final,   // of a statement at low priority, and nobody will try again
};

/// The innermost that runs now. Process-local; set by RunningStatement alone.
Nesting nesting();

/// Says that a statement runs, from enter() to leave(). Neither ereports; leave() belongs on error
/// paths, too.
class RunningStatement {
  public:
    void enter(Nesting kind);
    void leave() const;

  private:
    Nesting outer_ = Nesting::none;
    Nesting own_ = Nesting::none;
};

} // namespace lockguard::pg

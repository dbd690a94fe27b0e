// What a statement has changed and does not come to be is not to stay in this session's caches.
//
// PostgreSQL brings them up to date after each command, and only then notes what the abort has to
// take back in them (CommandEndInvalidationMessages()). An error in between leaves entries that
// have been read anew: with a file that is removed by the abort, to which the session's next INSERT
// goes, or from which its next rewrite copies no row; with a column that was not added. It comes
// where an entry is read from a page that another process is just reading (WaitIO() looks for
// interrupts): seldom, but the guard cancels statements, and tries again in the same session.
#pragma once

namespace lockguard::pg {

/// Says that a statement may change catalogs, from enter() to leave(), which only its success comes
/// to. Where the (sub)transaction in which it was entered is rolled back instead, or one inside of
/// it meanwhile, and has written something, the caches are emptied at the end of that.
///
/// enter() may ereport, leave() does not.
class CacheReset {
  public:
    void enter();
    void leave() const;

  private:
    int outer_ = 0;
};

} // namespace lockguard::pg

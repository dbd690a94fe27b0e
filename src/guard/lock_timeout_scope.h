// lock_timeout for the length of a call.
#pragma once

#include <charconv>
#include <iterator>

#include "boundary/compat.h"
#include "guard/setting_scope.h"

namespace lockguard::pg {

/// lock_timeout is `timeout` (ms, more than 0) from enter() to leave(), unless the one in force is
/// stricter. An error needs no leave(): the abort of its (sub)transaction restores settings. Both
/// calls belong in the same (sub)transaction.
class LockTimeoutScope {
  public:
    void enter(int timeout) {
        if (LockTimeout > 0 && LockTimeout <= timeout)
            return;
        timeout_ = timeout;
        before_ = LockTimeout;
        transaction_ = compat::lxid_of(MyProc);
        nest_level_ = NewGUCNestLevel();
        set_config_option("lock_timeout", Text(timeout).value, PGC_USERSET, PGC_S_SESSION,
                          GUC_ACTION_SAVE, true, 0, false);
    }

    void leave() const {
        // A commit in between has restored it already, and taken the nest level with it.
        if (nest_level_ == 0 || transaction_ != compat::lxid_of(MyProc))
            return;
        const bool is_ours = LockTimeout == timeout_;
        end_setting("lock_timeout", nest_level_, is_ours);
        if (is_ours && LockTimeout != before_)
            restore_setting("lock_timeout", Text(before_).value);
    }

  private:
    struct Text {
        explicit Text(int timeout) { // not snprintf(): this runs for each guarded statement
            std::to_chars(std::begin(value), std::end(value) - 1, timeout);
        }
        char value[16] = "";
    };

    LocalTransactionId transaction_ = InvalidLocalTransactionId;
    int timeout_ = 0;
    int before_ = 0;
    int nest_level_ = 0;
};

} // namespace lockguard::pg

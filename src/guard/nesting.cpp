#include "guard/nesting.h"

#include "boundary/compat.h"

namespace lockguard::pg {

namespace {
Nesting current;
} // namespace

Nesting nesting() {
    return current;
}

void RunningStatement::enter(Nesting kind) {
    Assert(kind != Nesting::none);
    outer_ = current;
    current = own_ = kind;
}

void RunningStatement::leave() const {
    Assert(current == own_); // what runs inside has left
    current = outer_;
}

} // namespace lockguard::pg

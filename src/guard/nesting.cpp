#include "guard/nesting.h"

namespace lockguard::pg {

namespace {
Nesting current;
} // namespace

Nesting nesting() {
    return current;
}

void RunningStatement::enter(Nesting kind) {
    outer_ = current;
    current = kind;
}

void RunningStatement::leave() const {
    current = outer_;
}

} // namespace lockguard::pg

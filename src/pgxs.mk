# How C++ is compiled into a PostgreSQL module. Include it before $(PGXS); the makefile defines
# LOCKGUARD_SRC, the folder that this file is in, and here, its own folder.

LOCKGUARD_CXXFLAGS = -std=c++20 -Wall -Wextra -fvisibility-inlines-hidden -MMD -MP
# The same library wherever its sources lie.
LOCKGUARD_CXXFLAGS += -ffile-prefix-map=$(abspath $(LOCKGUARD_SRC)/..)=.
# make WERROR=1, as our own tests have it. A packager's compiler may know warnings that ours does not.
ifeq ($(WERROR),1)
LOCKGUARD_CXXFLAGS += -Werror
endif

# PGXS adds the server's headers with -I. Named again as system headers, that -I is ignored, and
# their warnings are not ours.
PG_CPPFLAGS = -I$(LOCKGUARD_SRC) -isystem $(includedir_server) -isystem $(includedir_internal)
PG_CXXFLAGS = $(LOCKGUARD_CXXFLAGS)

# PGXS links with the C compiler.
SHLIB_LINK = -lstdc++

# JIT bitcode would be compiled without PG_CXXFLAGS, and nothing here is worth inlining.
override with_llvm := no
# PGXS's own dependency files, where the server was configured for them, are named after the last
# part of the path alone. Ours (-MMD) stand beside each object.
override autodepend := no

# For a build outside the source tree. PGXS says so too, but not where the server was configured in its
# own source tree: configure strips that line then.
ifneq ($(here),./)
VPATH = $(here)
endif

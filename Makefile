# pg_lockguard: make; make install; make installcheck [PG_CONFIG=/path/to/pg_config]
#
# make installcheck runs against a running server, chosen by the usual environment (PGHOST, PGPORT)
# as a superuser. scripts/test does it all against a server of its own.

here := $(dir $(firstword $(MAKEFILE_LIST)))

MODULE_big = pg_lockguard
EXTENSION = pg_lockguard
DATA = $(patsubst $(here)%,%,$(wildcard $(here)sql/pg_lockguard--*.sql))

# src/sources.txt is the one list of sources, for CMakeLists.txt as well.
OBJS = $(patsubst %.cpp,%.o,$(shell cat $(here)src/sources.txt))

REGRESS := $(filter-out pg_lockguard--%,$(patsubst $(here)sql/%.sql,%,$(wildcard $(here)sql/*.sql)))
ISOLATION := $(patsubst $(here)test/isolation/specs/%.spec,%,$(wildcard $(here)test/isolation/specs/*.spec))
ISOLATION_OPTS = --inputdir=$(here)test/isolation

EXTRA_CLEAN = $(OBJS:.o=.d) results output_iso regression.diffs regression.out tmp_check tmp_check_iso log

LOCKGUARD_SRC = $(here)src
include $(here)src/pgxs.mk
SHLIB_LINK += -Wl,--version-script=$(here)src/exports.map

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) does not answer; set PG_CONFIG to the pg_config of your PostgreSQL)
endif
include $(PGXS)

# A build outside the source tree needs the objects' folders. (No rule can make them: make would
# find those of the source tree.)
$(shell mkdir -p $(sort $(dir $(OBJS))))

# A source archive of what is committed: pg_lockguard-VERSION.tar.gz, as PGXN takes it too (.zip).
EXTVERSION = $(shell sed -nE "s/^default_version = '(.*)'/\1/p" $(here)pg_lockguard.control)
.PHONY: dist
dist:
	git -C $(here). archive --prefix=pg_lockguard-$(EXTVERSION)/ -o $(CURDIR)/pg_lockguard-$(EXTVERSION).tar.gz HEAD
	git -C $(here). archive --prefix=pg_lockguard-$(EXTVERSION)/ -o $(CURDIR)/pg_lockguard-$(EXTVERSION).zip HEAD

# What is compiled, and how, stands in these files.
$(OBJS): $(here)Makefile $(here)src/pgxs.mk
$(shlib): $(here)src/exports.map $(here)src/sources.txt

-include $(OBJS:.o=.d)

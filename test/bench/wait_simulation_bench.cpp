// Prints what the simulation of a table's lock queue says about low_priority and its alternatives.
// Virtual time only: the figures are the same on every machine.
#include "../unit/wait_simulation.h"

#include <cstdio>
#include <cstdlib>

using namespace lockguard;

namespace {

void print_time(core::Microseconds time) {
    if (time == simulation::kForever)
        std::printf(" %9s", "never");
    else
        std::printf(" %9.1f", static_cast<double>(time) / 1000);
}

} // namespace

int main(int argc, char** argv) {
    const long runs = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 31;
    if (runs < 1 || runs > 100'000) {
        std::fprintf(stderr, "usage: %s [runs]\n", argv[0]);
        return 2;
    }
    std::printf("%ld runs each; times in ms. \"after\": mean time to success, counted from the end "
                "of the idle session\nwhere there is one; \"lost\": mean of all stalls together.\n",
                runs);
    for (const simulation::Situation& situation : simulation::situations()) {
        std::printf("\n%-31.*s %6s %9s %9s %9s %9s %8s %10s\n", 31, "", "done", "median", "p90",
                    "after", "worst", "stalled", "lost");
        std::printf("%.*s\n", static_cast<int>(situation.name.size()), situation.name.data());
        for (const simulation::Contestant& contestant : simulation::contestants()) {
            const simulation::Summary sum =
                simulation::summarize(situation, contestant, static_cast<unsigned>(runs));
            std::printf("  %-29.*s %5.0f%%", static_cast<int>(contestant.name.size()),
                        contestant.name.data(), sum.done * 100);
            print_time(sum.median_took);
            print_time(sum.p90_took);
            std::printf(" %9.1f %9.1f %7.2f%% %10.1f\n", sum.mean_took_after / 1000,
                        static_cast<double>(sum.worst_stall) / 1000, sum.stalled * 100,
                        sum.mean_lost / 1000);
        }
    }
    return 0;
}

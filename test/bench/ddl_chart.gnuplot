# The latencies of the others' SELECTs over time, one panel each for plain ALTER TABLE, the best
# lock_timeout loop and low_priority. The variables folder (of ddl.pl's timelines), format (svg or
# png) and output are given on the command line.

load folder.'/events.gnuplot'

# On white, so that it reads on a dark page as well.
if (format eq 'png') {
    set terminal pngcairo size 960,720 font 'sans,11' noenhanced background '#ffffff'
} else {
    set terminal svg size 960,720 font 'sans,11' noenhanced background '#ffffff' dynamic
}
set output output

last = plain_done > loop_done ? plain_done : loop_done
last = last > low_priority_done ? last : low_priority_done
set xrange [-0.8:last + 0.9]
set xtics out nomirror
set yrange [0.1:20000]
set logscale y
set ytics ('0.1 ms' 0.1, '1 ms' 1, '10 ms' 10, '100 ms' 100, '1 s' 1000, '10 s' 10000) out nomirror
set grid ytics linecolor '#dddddd' linetype 1
set border 3 linecolor '#666666'
unset key

set multiplot
set lmargin at screen 0.08
set rmargin at screen 0.98
do for [n = 0:2] {
    name = word('plain loop low_priority', n + 1)
    colour = word('#c0392b #d68910 #1e8449', n + 1)
    commit = value(name.'_commit')
    done = value(name.'_done')
    unset label
    unset arrow
    set tmargin at screen 0.95 - 0.3 * n
    set bmargin at screen 0.71 - 0.3 * n
    set label 1 at graph 0, 1.09 left value(name.'_title') font ',13' textcolor rgb colour
    set label 2 at graph 1, 1.09 right sprintf('worst SELECT %d ms, done %s after COMMIT', \
        value(name.'_worst'), done - commit < 1 ? sprintf('%.0f ms', 1000 * (done - commit)) \
        : sprintf('%.1f s', done - commit)) textcolor rgb '#333333'
    set arrow 1 from 0, graph 0 to 0, graph 1 nohead dashtype 2 linecolor '#333333'
    set arrow 2 from commit, graph 0 to commit, graph 1 nohead dashtype 2 linecolor '#333333'
    set arrow 3 from done, graph 0 to done, graph 1 nohead linecolor rgb colour
    set label 3 at 0.06, graph 0.92 left 'ALTER TABLE begins' textcolor rgb '#333333' font ',9'
    set label 4 at commit - 0.06, graph 0.92 right 'blocker commits' textcolor rgb '#333333' font ',9'
    set label 5 at done + 0.06, graph 0.80 left 'ALTER TABLE done' textcolor rgb colour font ',9'
    if (n == 2) {
        set xlabel 'seconds; each point: the slowest SELECT of 20 ms, by when it was due' textcolor rgb '#333333'
        set xtics 1 format '%g'
    } else {
        set xtics 1 format ''
    }
    plot folder.'/'.name.'.tsv' using 1:2 with points pointtype 7 pointsize 0.4 linecolor rgb colour
}
unset multiplot

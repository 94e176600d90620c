// Python's view of the accumulator. Shapes and ranges are checked here, once; the loops trust them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "accumulator.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using trtforge::Accumulator;
using trtforge::Axis;

using Labels = nb::ndarray<uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Probabilities = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

namespace {

class Bound {
public:
    Bound(std::array<Axis, 3> axes, int64_t channels, float floor, Labels labels,
          std::optional<Probabilities> probabilities)
        : channels_(channels) {
        std::array<int64_t, 3> size;
        for (int a = 0; a < 3; ++a) {
            check(axes[a]);
            window_[a] = static_cast<int64_t>(axes[a].weights.size());
            count_[a] = static_cast<int64_t>(axes[a].starts.size());
            size[a] = axes[a].cuts.back();
        }
        const int64_t classes = channels == 1 ? 2 : channels;
        bool fits = channels >= 1 && classes <= 256;
        for (size_t a = 0; a < 3; ++a) {
            fits = fits && static_cast<int64_t>(labels.shape(a)) == size[a];
            fits = fits && (!probabilities || static_cast<int64_t>(probabilities->shape(a + 1)) == size[a]);
        }
        fits = fits && (!probabilities || static_cast<int64_t>(probabilities->shape(0)) == classes);
        if (!fits) throw std::invalid_argument("the outputs do not have the shape of the volume");
        labels_ = nb::cast(labels);
        if (probabilities) probabilities_ = nb::cast(*probabilities);
        inner_ = std::make_unique<Accumulator>(std::move(axes), channels, floor, labels.data(),
                                               probabilities ? probabilities->data() : nullptr);
    }

    void push(const std::array<int64_t, 3> &window, const Logits &logits) {
        bool fits = static_cast<int64_t>(logits.shape(0)) == channels_;
        for (size_t a = 0; a < 3; ++a) {
            fits = fits && static_cast<int64_t>(logits.shape(a + 1)) == window_[a];
            if (window[a] < 0 || window[a] >= count_[a]) throw std::out_of_range("no such window");
        }
        if (!fits) throw std::invalid_argument("the logits do not have the shape of a window");
        const float *data = logits.data();
        nb::gil_scoped_release release;
        inner_->push(window, data);
    }

    bool met_nan() const { return inner_->met_nan(); }

    int64_t most_bytes() const { return inner_->most_bytes(); }

private:
    static void check(const Axis &axis) {
        const size_t segments = axis.cuts.size() - 1, windows = axis.starts.size();
        const bool whole = axis.cuts.size() >= 2 && windows >= 1 && !axis.weights.empty() &&
                           axis.first.size() == segments && axis.last.size() == segments &&
                           axis.span_begin.size() == windows && axis.span_end.size() == windows &&
                           static_cast<int64_t>(axis.norm.size()) == axis.cuts.back();
        if (!whole) throw std::invalid_argument("the axis is incomplete");
    }

    int64_t channels_;
    std::array<int64_t, 3> window_{}, count_{};
    nb::object labels_, probabilities_;  // keeps the memory alive
    std::unique_ptr<Accumulator> inner_;
};

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The accumulator of the window loop, compiled; trtforge.runtime.windows.accumulate chooses it.";
    using Ints = std::vector<int64_t>;
    using Floats = std::vector<float>;
    nb::class_<Axis>(m, "Axis").def(
        "__init__",
        [](Axis *self, Ints starts, Ints cuts, Ints first, Ints last, Ints span_begin, Ints span_end, Floats weights,
           Floats norm) {
            new (self) Axis{std::move(starts),     std::move(cuts),     std::move(first),   std::move(last),
                            std::move(span_begin), std::move(span_end), std::move(weights), std::move(norm)};
        },
        "starts"_a, "cuts"_a, "first"_a, "last"_a, "span_begin"_a, "span_end"_a, "weights"_a, "norm"_a);
    nb::class_<Bound>(m, "Accumulator")
        .def(nb::init<std::array<Axis, 3>, int64_t, float, Labels, std::optional<Probabilities>>(), "axes"_a,
             "channels"_a, "floor"_a, "labels"_a.noconvert(), "probabilities"_a.noconvert().none())
        .def("push", &Bound::push, "window"_a, "logits"_a.noconvert())
        .def_prop_ro("met_nan", &Bound::met_nan)
        .def_prop_ro("most_bytes", &Bound::most_bytes);
}

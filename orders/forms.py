"""The form for a new order. Whatever is wrong with it is said here, where the person is, before anything is stored."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from django import forms
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.template.loader import render_to_string
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from choreography.core import clock
from orders import money, services
from orders.models import MAX_QUANTITY, Order, OrderLine, Product

#: What the form offers to pick, each with a word on what it does: payment tokens, and words for a street. Empty unless
#: the shop is put together with providers that have something to try out.
suggested_tokens: Mapping[str, str | Promise] = {}
suggested_streets: Mapping[str, str | Promise] = {}

_QUANTITY = _("Give a whole number from 1 to %(max)d.") % {"max": MAX_QUANTITY}


def country_choices() -> list[tuple[str, Any]]:
    """The countries, and nothing picked yet."""
    return [("", _("Pick a country")), *money.country_choices()]


def _suggestions(name: str, words: Mapping[str, str | Promise], text: str | Promise) -> SafeString:
    """A help text with what can be picked, also as the input's list of suggestions."""
    return render_to_string("orders/suggestions.html", {"name": name, "words": words, "text": text})


class OrderForm(forms.ModelForm):  # type: ignore[type-arg]
    """Customer, address and payment. The lines are a formset of their own."""

    country = forms.ChoiceField(
        label=_("Country"),
        choices=country_choices,
        error_messages={"invalid_choice": _("%(value)s is not a country. Pick one from the list.")},
    )
    submission = forms.UUIDField(required=False, initial=clock.new_id, widget=forms.HiddenInput)

    class Meta:
        model = Order
        fields = (
            "customer_name",
            "given_name",
            "family_name",
            "customer_email",
            "street",
            "city",
            "postal_code",
            "country",
            "payment_token",
        )
        widgets = {
            "street": forms.TextInput(attrs={"list": "suggested-streets", "class": "vTextField"}),
            "payment_token": forms.TextInput(
                attrs={"list": "suggested-tokens", "class": "vTextField", "autocomplete": "off"}
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        token, street = self.fields["payment_token"], self.fields["street"]
        token.help_text = _suggestions(
            "suggested-tokens", suggested_tokens, _("Stands for the customer's card at the payment provider.")
        )
        street.help_text = _suggestions("suggested-streets", suggested_streets, "")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("submission") is None:
            self._mark_anew()
            self.errors.pop("submission", None)
            raise ValidationError(
                _(
                    "This form came without its mark, so it can't be told whether it was sent before. "
                    "Nothing was stored. It has a new mark now: save it again."
                ),
                code="submission",
            )
        return cleaned

    def _mark_anew(self) -> None:
        """Give the form that is shown again a mark of its own."""
        data = QueryDict(mutable=True)
        data.update(self.data)
        data[self.add_prefix("submission")] = str(clock.new_id())
        self.data = data


class ProductSelect(AutocompleteSelect):
    """Shows the product that is picked, of those the field knows already. The others come as somebody types."""

    def optgroups(self, name: str, value: Sequence[str], attr: Any = None) -> Any:
        choices: Any = self.choices
        picked = [choices.field.known[key] for key in value if key in choices.field.known]
        options = [self.create_option(name, product.pk, str(product), True, 0) for product in picked]
        return [(None, options, 0)]


class ProductField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """One of the products. Asks the database nothing: the formset loads all that were picked at once."""

    known: Mapping[str, Product]
    """Products by their id, as text."""

    def to_python(self, value: Any) -> Product | None:
        if value in self.empty_values:
            return None
        if value not in self.known:
            raise ValidationError(self.error_messages["invalid_choice"], code="invalid_choice")
        return self.known[value]


class LineForm(forms.ModelForm):  # type: ignore[type-arg]
    """So many of a product."""

    quantity = forms.IntegerField(
        label=_("quantity"),
        initial=1,
        min_value=1,
        max_value=MAX_QUANTITY,
        error_messages=dict.fromkeys(("required", "invalid", "min_value", "max_value"), _QUANTITY),
    )

    class Meta:
        model = OrderLine
        fields = ("product", "quantity")
        error_messages = {
            "product": {
                "required": _("Pick a product."),
                "invalid_choice": _("There is no such product. Pick one from the list."),
            }
        }

    def _post_clean(self) -> None:
        """Fill in and check no ``OrderLine``, as Django would: ``place_order`` makes and checks the lines."""


class LineFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """The lines of a new order."""

    picks: list[services.Pick]
    """What is ordered, once the formset is valid."""

    def add_fields(self, form: Any, index: int | None) -> None:
        super().add_fields(form, index)
        form.fields["product"].known = self._products

    @cached_property
    def _products(self) -> Mapping[str, Product]:
        """The products that were picked, by their id as it was sent. One query."""
        if not self.is_bound:
            return {}
        sent = (self.data.get(f"{self.add_prefix(index)}-product", "") for index in range(self.total_form_count()))
        # What has more digits would not fit into an id.
        ids = [key for key in sent if key.isdecimal() and len(key) < 19]
        return {str(key): product for key, product in Product.objects.in_bulk(ids).items()}

    def clean(self) -> None:
        """Refuse lines that make no order.

        Raises:
            ValidationError: see ``services.price``.
        """
        super().clean()
        kept = [form for form in self.forms if not form.cleaned_data.get("DELETE")]
        if any(form.errors for form in kept):
            return
        lines = [form.cleaned_data for form in kept if form.cleaned_data]
        self.picks = [services.Pick(line["product"], line["quantity"]) for line in lines]
        services.price(self.picks)

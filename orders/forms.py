"""The form for a new order. Whatever is wrong with it is said here, where the person is, before anything is stored."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.template.loader import render_to_string
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from choreography import world
from orders import money, services
from orders.models import MAX_QUANTITY, Order, OrderLine

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
    submission = forms.UUIDField(required=False, initial=world.new_id, widget=forms.HiddenInput)

    class Meta:
        model = Order
        fields = (
            "customer_name",
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
        data[self.add_prefix("submission")] = str(world.new_id())
        self.data = data


class ProductField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """One of the products."""

    def bound_data(self, data: Any, initial: Any) -> Any:
        """What is shown again: nothing where it can't be an id, as the widget would fail to look up its name."""
        shown = super().bound_data(data, initial)
        return shown if str(shown).isdecimal() and len(str(shown)) < 19 else None


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


class LineFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """The lines of a new order."""

    picks: list[services.Pick]
    """What is ordered, once the formset is valid."""

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
